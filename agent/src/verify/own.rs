//! What perennial makes of a certificate directory: what `run` would find.

use perennial::UnixTime;
use perennial_std::{Directory, DirectoryError, Loaded};

use super::{Fault, Opinion, Pair, Role};
use crate::failure::Failure;

/// Its opinion, and what else is wrong.
pub(super) fn look(store: &Directory, role: Role, now: UnixTime) -> Result<(Opinion, Vec<DirectoryError>), Failure> {
    let Loaded { credential, mut problems } = store.load(now).map_err(Failure::usage)?;
    let pair = credential
        .map(|(credential, path)| Pair { file: path.display().to_string(), chain: credential.chain().clone() });
    let gravest = problems.iter().position(|problem| !matches!(problem, DirectoryError::Exposed { .. }));
    let fault = match gravest {
        Some(gravest) if pair.is_none() && role == Role::Client => {
            let remedy = "restore it from a backup, or give it a bootstrap kubeconfig with a token that is good";
            Some(Fault::start(problems.remove(gravest).to_string(), remedy.into()))
        }
        _ => role.fault(pair.as_ref(), now),
    };
    Ok((Opinion { pair, faults: fault.into_iter().collect() }, problems))
}
