//! The verdict of perennial on a certificate directory, by the loading code of `perennial run`.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use perennial::UnixTime;
use perennial_rotation::{Directory, DirectoryError, Loaded};
use rustix::fs::{Access, access};

use super::{Fault, Opinion, Pair, Role};
use crate::failure::Failure;
use crate::remedies::{is_harmless, remedy};

/// Returns perennial's verdict on the pair that perennial would start with. Also returns the other problems of the
/// directory, which are no faults of that verdict.
pub(super) fn check(
    store: &Directory,
    prefix: &str,
    role: Role,
    now: UnixTime,
) -> Result<(Opinion, Vec<DirectoryError>), Failure> {
    let Loaded { credential, mut problems, .. } = store.load(None, now).map_err(Failure::usage)?;
    let pair = credential
        .map(|(credential, path)| Pair { file: path.display().to_string(), chain: credential.chain().clone() });
    // Taken out before the gravest problem is chosen: a mount point is a fault with a pair, too.
    let in_the_way = problems.extract_if(.., |problem| matches!(problem, DirectoryError::MountPoint { .. }));
    let mut faults: Vec<Fault> = in_the_way
        .map(|problem| Fault {
            why: format!("could not put its next certificate in place: {problem}"),
            remedy: remedy(&problem, false).into(),
        })
        .collect();
    // Without a pair, the first problem that is not harmless explains why.
    let gravest = problems.iter().position(|problem| !is_harmless(problem));
    let fault = match gravest {
        Some(gravest) if pair.is_none() && role == Role::Client => {
            let problem = problems.remove(gravest);
            Some(Fault::start(problem.to_string(), remedy(&problem, false).into()))
        }
        _ => role.fault(pair.as_ref(), now),
    };
    // In front, since the error on stderr names the first fault only.
    faults.splice(0..0, fault);
    faults.extend(locked_out(store.path(), prefix));
    Ok((Opinion { pair, faults, doubt: None }, problems))
}

/// The fault if `run` could not lock the files or write to the directory, whatever pairs it holds. A lock that another
/// `run` holds is no fault.
fn locked_out(directory: &Path, prefix: &str) -> Option<Fault> {
    let remedy = "make sure that the user who runs perennial can write there";
    // `run` starts on a read-only disk: a new certificate stays in memory until it can be written.
    let refused = |path: &Path, wanted| {
        let error = io::Error::from(access(path, wanted).err()?);
        let keeps = !matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::NotFound);
        keeps.then(|| Fault::start(format!("{} cannot be written to: {error}", path.display()), remedy.into()))
    };
    if let Some(fault) = refused(directory, Access::WRITE_OK | Access::EXEC_OK) {
        return Some(fault);
    }
    let lock = directory.join(format!(".{prefix}.lock"));
    match fs::symlink_metadata(&lock) {
        Ok(found) if found.is_symlink() || found.is_dir() => {
            let why = format!(
                "{} is a link or a directory: perennial needs a regular file there, for its lock",
                lock.display()
            );
            Some(Fault::start(why, "remove it".into()))
        }
        Ok(_) => refused(&lock, Access::READ_OK | Access::WRITE_OK),
        // `run` creates a missing lock file.
        Err(_) => None,
    }
}
