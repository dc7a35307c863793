//! What to do about what is wrong with the files of a certificate directory.

use perennial_std::DirectoryError;

/// What to do, if there is another pair to use, or not.
pub(crate) fn remedy(problem: &DirectoryError, another: bool) -> &'static str {
    match problem {
        DirectoryError::Exposed { .. } => {
            "chmod 600 it, or let `perennial run` do so; if somebody may have read it, ask for a new one: SIGUSR1"
        }
        DirectoryError::Expired { .. } => "`perennial run` puts it right: it uses the better one",
        problem if !is_damage(problem) => "see to it that whoever runs perennial can read it",
        _ if another => "`perennial run` puts it right: it uses the best pair there is, and sets aside what is damaged",
        _ => {
            "restore it from a backup, or give `perennial run` a bootstrap kubeconfig with a token that is good: it sets \
             aside what is damaged, and asks for a certificate"
        }
    }
}

/// It holds no pair, and never will: trying again is of no use.
pub(crate) fn is_damage(problem: &DirectoryError) -> bool {
    matches!(problem, DirectoryError::Credential { .. }) || problem.is_for_good()
}
