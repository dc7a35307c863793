//! The status of trust bundles: of a certificate list, or of `--trust-bundle`.

use crate::bundle_file::{BundleFile, BundleView};
use crate::certificates::{List, Volumes};
use crate::cli::TrustBundle;
use crate::failure::Failure;
use crate::report;

/// Reads the files of the trust bundles of a list.
///
/// # Errors
/// [`Failure::Usage`] if a path cannot be used.
pub(super) fn of_list(list: &List) -> Result<Vec<BundleView>, Failure> {
    let volumes = Volumes::default();
    list.trust_bundles.iter().map(|listed| Ok(BundleFile::listed(listed, &volumes)?.read())).collect()
}

/// Reads the files of these options.
///
/// # Errors
/// [`Failure::Usage`] if a path names no file.
pub(super) fn of_options(options: &[TrustBundle]) -> Result<Vec<BundleView>, Failure> {
    options.iter().map(|option| Ok(BundleFile::new(option)?.read())).collect()
}

/// The lines about one trust bundle.
pub(super) fn to_text(view: &BundleView) -> String {
    let mut lines = view.lines();
    match &view.problem {
        None => lines.push(("state", "good: written".into())),
        Some(problem) => lines.extend([("state", problem.why.clone()), ("  to do", problem.remedy.to_owned())]),
    }
    report::columns(&lines)
}

/// The first problem, with the file that has it.
pub(super) fn first_problem(views: &[BundleView]) -> Option<String> {
    views.iter().find_map(|view| {
        let problem = view.problem.as_ref()?;
        Some(format!("trust bundle {}: {}", view.path.display(), problem.why))
    })
}
