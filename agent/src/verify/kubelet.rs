//! The verdict of kubelet on a certificate directory, by the rules of client-go's `certificate_store.go` (`recover`,
//! `Current`, `updateSymlink`) and of Go's parsers. Where perennial cannot apply these rules, the verdict is in doubt.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use perennial::UnixTime;
use perennial_pki::{GoVerdict, go_verdict};
use rustix::fs::{Access, access};
use zeroize::Zeroizing;

use super::{Fault, Opinion, Pair, Role};

/// Most bytes read from a file: more than any pair has.
const MAX_FILE: u64 = 1 << 20;

/// Returns kubelet's verdict: whether kubelet could start with the pair that it would choose, and whether it could put
/// the next certificate in place.
pub(super) fn check(directory: &Path, role: Role, now: UnixTime) -> Opinion {
    let place = |end: &str| directory.join(format!("{}{end}", role.prefix()));
    let (current, updated) = (place("-current.pem"), place("-updated.pem"));
    let fixed = (place(".crt"), place(".key"));
    let found = first_place(&current, &updated, fixed).and_then(|place| place.map(read).transpose());
    let (mut opinion, fault) = match found {
        Ok(Some(opinion)) => {
            let fault = opinion.pair.as_ref().and_then(|pair| role.fault(Some(pair), now));
            (opinion, fault)
        }
        Ok(None) => (Opinion::default(), role.fault(None, now)),
        Err(fault) => (Opinion::default(), Some(fault)),
    };
    let in_the_way = [&current, &updated].into_iter().filter_map(|link| in_the_way(link));
    opinion.faults.extend(fault.into_iter().chain(not_writable(directory)).chain(in_the_way));
    opinion
}

/// The files of the first pair that exists, in the order of client-go: the current link, the updated link, then the
/// certificate file with the key file. `None` if there is no pair.
fn first_place(
    current: &Path,
    updated: &Path,
    (certificate, key): (PathBuf, PathBuf),
) -> Result<Option<Vec<PathBuf>>, Fault> {
    if exists(current)? {
        return Ok(Some(vec![current.to_owned()]));
    }
    // client-go's `recover`: at the start kubelet completes an update that was interrupted.
    match fs::symlink_metadata(updated) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(updated, &error)),
        Ok(metadata) if !metadata.is_symlink() => {
            let why = format!("{} is not a link, and {} does not lead to a file", updated.display(), current.display());
            return Err(Fault::start(why, "move it away, or let `perennial run` repair it".into()));
        }
        Ok(_) if exists(updated)? => return Ok(Some(vec![updated.to_owned()])),
        // A dangling link: `recover` renames it to the current link, which then counts as missing.
        Ok(_) => {}
    }
    Ok((exists(&certificate)? && exists(&key)?).then_some(vec![certificate, key]))
}

/// True if Go's `os.Stat` succeeds for the path. A dangling link counts as missing.
fn exists(path: &Path) -> Result<bool, Fault> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// Reads a pair as kubelet would. `files` is one file that holds certificate and key, or a certificate file and a key
/// file. Returns a fault if the files are no pair, since kubelet would try no other files.
fn read(files: Vec<PathBuf>) -> Result<Opinion, Fault> {
    let file = files[0].display().to_string();
    let mut read = Vec::new();
    for path in &files {
        match contents(path).map_err(|error| unreadable(path, &error))? {
            Some(contents) => read.push(contents),
            None => return Ok(in_doubt(None, &file, &format!("{} is longer than 1 MiB", path.display()))),
        }
    }
    let pair = |chain| Pair { file: file.clone(), chain };
    // One file with both, or two files.
    match go_verdict(&read[0], &read[read.len() - 1]) {
        GoVerdict::Loads(chain) => Ok(Opinion { pair: Some(pair(chain)), ..Opinion::default() }),
        GoVerdict::Unknown { chain, why } => Ok(in_doubt(chain.map(pair), &file, &why)),
        GoVerdict::Refuses(why) => {
            let remedy = "move the file to another directory, and give kubelet a bootstrap kubeconfig; \
                          or let `perennial run` replace the pair";
            Err(Fault::start(format!("{file}: {why}"), remedy.into()))
        }
    }
}

/// Returns a verdict in doubt: for the reason `why`, perennial does not know whether Go can load `file`. `pair` must be
/// given if the chain is known.
fn in_doubt(pair: Option<Pair>, file: &str, why: &str) -> Opinion {
    let why = format!("perennial cannot read {file}: {why}; kubelet may be able to");
    let remedy = "see kubelet's log, or let `perennial run` replace the pair with one that both can read".into();
    Opinion { pair, doubt: Some(Fault { why, remedy }), ..Opinion::default() }
}

/// Reads a regular file; `None` if it is longer than [`MAX_FILE`].
fn contents(file: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let metadata = fs::metadata(file)?;
    // Reading a FIFO would block for its writer, here as in kubelet.
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.len() > MAX_FILE {
        return Ok(None);
    }
    fs::read(file).map(|contents| Some(Zeroizing::new(contents)))
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    let why = format!("{} cannot be read: {error}", path.display());
    Fault::start(why, "make sure that its owner can read it, and that it is a file or a link to one".into())
}

/// The fault if this user cannot write to the directory, where kubelet would put its next certificate.
fn not_writable(directory: &Path) -> Option<Fault> {
    let error = io::Error::from(access(directory, Access::WRITE_OK | Access::EXEC_OK).err()?);
    let why =
        format!("could not put its next certificate in place: {} cannot be written to: {error}", directory.display());
    Some(Fault { why, remedy: "make sure that the user who runs kubelet can write there".into() })
}

/// The fault if `link` exists and is not a link: client-go's `updateSymlink` replaces links only.
fn in_the_way(link: &Path) -> Option<Fault> {
    let metadata = fs::symlink_metadata(link).ok().filter(|metadata| !metadata.is_symlink())?;
    let what = if metadata.is_file() { "a regular file" } else { "a directory or a special file" };
    let why = format!("could not put its next certificate in place: {} is {what} instead of a link", link.display());
    let remedy =
        "rename it, and create a link to it with the old name; or let `perennial run` do so at the next rotation";
    Some(Fault { why, remedy: remedy.into() })
}
