//! Checks whether perennial could start with each certificate of a certificate list.

use std::io::ErrorKind;
use std::path::Path;

use perennial::UnixTime;
use perennial_rotation::{Directory, DirectoryError, FileStoreError, LoadRequest, Store as _, clock};

use super::{Fault, Finding, Opinion, Pair, Role, bundles, report};
use crate::certificates::{Asker, List, Location, Member, MemberStore, VolumeFiles, Volumes, of_process};
use crate::cli;
use crate::cli::Proxy;
use crate::failure::Failure;
use crate::remedies::FOREIGN;
use crate::run::{Resolved, Servers};

/// Runs `perennial verify --certificates` for the list at this path.
///
/// # Errors
/// [`Failure::Usage`] if the list has an error. [`Failure::Failed`] if perennial could not start with a certificate, or
/// not put the next one in place.
pub(super) fn verify(path: &Path, options: &cli::Verify) -> Result<(), Failure> {
    let list = List::read(path, &of_process(options.node_name.as_deref())?)?;
    let now = clock::now().unix;
    let found: Vec<_> = list.members.iter().map(|member| finding(member, now)).collect();
    report("list", path, &found, &bundles::of_list(&list)?, options.json)
}

/// Checks a member: the files that it names as a start reads them, and the files of its certificate.
fn finding(member: &Member, now: UnixTime) -> Finding {
    let found = match &member.location {
        Location::Directory { path, prefix } => match Directory::open_existing(path, prefix) {
            // Without a certificate `run` starts, and requests one.
            Ok(directory) => Finding::own(member.name.clone(), &directory, prefix, Role::Serving, now),
            // `run` creates the directory.
            Err(DirectoryError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Ok(Finding::of_list(member.name.clone(), Opinion::default()))
            }
            Err(error) => Err(Failure::usage(error)),
        },
        Location::Files(..) | Location::Volume(_) => {
            member.open_store(&Volumes::default()).map(|store| of_files(member, &store, now))
        }
    };
    let mut finding = found.unwrap_or_else(|error| {
        let fault = Fault::start(error.to_string(), "make sure that the user who runs perennial can read it".into());
        let perennial = Opinion { faults: vec![fault], ..Opinion::default() };
        Finding::of_list(member.name.clone(), perennial)
    });
    let perennial = &mut finding.perennial;
    // `run` replaces an expired certificate, and one with another name, at once, as if there were none.
    perennial.pair.take_if(|Pair { chain, .. }| {
        let facts = chain.certificate();
        facts.validity.expired(now) || !member.template.is_named_by(facts)
    });
    let is_valid = perennial.pair.as_ref().is_some_and(|pair| now >= pair.chain.certificate().validity.not_before());
    // In front, since the error on stderr names the first fault only.
    perennial.faults.splice(0..0, fault_of_config(member, is_valid));
    finding
}

/// The fault of the files that a member names: its kubeconfig and CA file or, without a valid certificate, the
/// credential of its first request.
fn fault_of_config(member: &Member, has_certificate: bool) -> Option<Fault> {
    let resolved = Resolved::read(member.clone());
    // The flag --proxy is not known; it decides only whether the environment is read.
    match resolved.and_then(|resolved| Servers::default().of(&resolved, Proxy::Environment).map(|_| resolved)) {
        Err(why) => Some(Fault::start(why, "mend this file, or name another one in the list".into())),
        Ok(_) if has_certificate => None,
        Ok(resolved) => resolved.check_identity().err().map(|why| Fault {
            why: format!("could not request a certificate: there is no valid one, and {why}"),
            remedy: match member.asker {
                Asker::Own { .. } => "provide a bootstrap kubeconfig with a valid token",
                _ => "provide a valid credential in this file",
            }
            .into(),
        }),
    }
}

/// Checks that a start could take the lock of the files, as far as possible without changing anything.
fn is_free(member: &Member, files: &MemberStore) -> Result<(), FileStoreError> {
    match (files, &member.location) {
        (MemberStore::Files(store), _) => store.is_free(),
        (_, Location::Volume(VolumeFiles { private, .. })) => Ok(Directory::at(private, &member.name)?.is_free()?),
        _ => Ok(()),
    }
}

/// Checks a member whose files are laid out for other programs.
fn of_files(member: &Member, files: &MemberStore, now: UnixTime) -> Finding {
    let advice = "make sure that the user who runs perennial can read and write the files and their directories";
    let common_name = member.template.common_name();
    let request = LoadRequest {
        common_name: member.template.wanted_common_name(),
        has_signer: false,
        now,
        keys: None,
        request_digest: None,
    };
    let mut file = files.certificate();
    let (held, mut faults) = match files.store().load(&request) {
        Ok(stored) => (stored.credential, Vec::new()),
        Err(error) => (None, vec![Fault::start(error.to_string(), advice.into())]),
    };
    match is_free(member, files) {
        // A lock that another `run` holds is no fault.
        Ok(()) | Err(FileStoreError::Private(DirectoryError::Owned { .. })) => {}
        Err(error) => faults.push(Fault::start(error.to_string(), advice.into())),
    }
    if let Some(why) = files.obstacle(common_name, now) {
        // The pair, if there is one, is perennial's own copy.
        file = files.private_directory().to_owned();
        let why = format!("could not put its next certificate in place: {why}");
        faults.push(Fault { why, remedy: FOREIGN.into() });
    }
    let pair = held.map(|held| Pair { file: file.display().to_string(), chain: held.chain().clone() });
    Finding::of_list(member.name.clone(), Opinion { pair, faults, doubt: None })
}
