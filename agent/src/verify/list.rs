//! Checks whether perennial could start with each certificate of a certificate list.

use std::io::ErrorKind;
use std::path::Path;

use perennial::UnixTime;
use perennial_rotation::{Directory, DirectoryError, FileStoreError, LoadRequest, Store as _, clock};

use super::{Fault, Finding, Opinion, Pair, Role, report};
use crate::certificates::{Asker, List, Location, Member, MemberStore, of_process};
use crate::cli;
use crate::failure::Failure;

/// Runs `perennial verify --certificates` for the list at this path.
///
/// # Errors
/// [`Failure::Usage`] if the list has an error. [`Failure::Failed`] if perennial could not start with a certificate.
pub(super) fn verify(path: &Path, options: &cli::Verify) -> Result<(), Failure> {
    let list = List::read(path, &of_process(options.node_name.as_deref())?)?;
    let now = clock::now().unix;
    let found: Vec<_> = list.members.iter().map(|member| finding(member, now)).collect();
    report("list", path, &found, options.json)
}

/// Checks a member. A member that requests with another identity than its own certificate may lack a certificate.
fn finding(member: &Member, now: UnixTime) -> Finding {
    let role = if matches!(member.asker, Asker::Own { .. }) { Role::Client } else { Role::Serving };
    let found = match &member.location {
        Location::Directory { path, prefix } => match Directory::open_existing(path, prefix) {
            Ok(directory) => Finding::own(member.name.clone(), &directory, prefix, role, now),
            // `run` creates the directory.
            Err(DirectoryError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                let perennial = Opinion { faults: role.fault(None, now).into_iter().collect(), ..Opinion::default() };
                Ok(Finding::of_list(member.name.clone(), perennial))
            }
            Err(error) => Err(Failure::usage(error)),
        },
        Location::Files(..) => member.open_store().map(|store| of_files(member, &store, role, now)),
    };
    found.unwrap_or_else(|error| {
        let fault = Fault::start(error.to_string(), "make sure that the user who runs perennial can read it".into());
        let perennial = Opinion { faults: vec![fault], ..Opinion::default() };
        Finding::of_list(member.name.clone(), perennial)
    })
}

/// Checks a member whose files are laid out for other programs.
fn of_files(member: &Member, files: &MemberStore, role: Role, now: UnixTime) -> Finding {
    let advice = "make sure that the user who runs perennial can read and write the files and their directories";
    let common_name = Some(member.template.common_name());
    let loaded = files.store().load(&LoadRequest { common_name, has_signer: false, now, keys: None });
    let file = files.certificate().display().to_string();
    let (pair, mut faults) = match loaded {
        Ok(stored) => (stored.credential.map(|held| Pair { file, chain: held.chain().clone() }), Vec::new()),
        Err(error) => (None, vec![Fault::start(error.to_string(), advice.into())]),
    };
    if faults.is_empty() {
        faults.extend(role.fault(pair.as_ref(), now));
    }
    if let MemberStore::Files(files) = files {
        match files.is_free() {
            // A lock that another `run` holds is no fault.
            Ok(()) | Err(FileStoreError::Private(DirectoryError::Owned { .. })) => {}
            Err(error) => faults.push(Fault::start(error.to_string(), advice.into())),
        }
    }
    let perennial = Opinion { pair, faults, doubt: None };
    Finding::of_list(member.name.clone(), perennial)
}
