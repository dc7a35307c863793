//! What a kubelet makes of a certificate directory: client-go's `certificate_store.go`, `recover`, `Current` and
//! `updateSymlink`. Pairs are judged by Go's rules; where perennial cannot apply them, it says so.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use perennial::UnixTime;
use perennial_pki::{GoVerdict, go_verdict};
use rustix::fs::{Access, access};
use zeroize::Zeroizing;

use super::{Fault, Opinion, Pair, Role};

/// No credential is larger.
const MAX_FILE: u64 = 1 << 20;

pub(super) fn look(directory: &Path, role: Role, now: UnixTime) -> Opinion {
    let place = |end: &str| directory.join(format!("{}{end}", role.prefix()));
    let (current, updated) = (place("-current.pem"), place("-updated.pem"));
    let fixed = (place(".crt"), place(".key"));
    let mut doubt = None;
    let (pair, fault) = match first_place(&current, &updated, fixed).and_then(|place| place.map(read).transpose()) {
        Ok(Some(Read { pair, doubt: why })) => {
            let fault = pair.as_ref().and_then(|pair| role.fault(Some(pair), now));
            doubt = why;
            (pair, fault)
        }
        Ok(None) => (None, role.fault(None, now)),
        Err(fault) => (None, Some(fault)),
    };
    let mut faults: Vec<Fault> = fault.into_iter().collect();
    faults.extend(not_writable(directory));
    faults.extend([&current, &updated].into_iter().filter_map(|link| in_the_way(link)));
    Opinion { pair, faults, doubt }
}

/// The first place where there is anything: the files to read.
fn first_place(
    current: &Path,
    updated: &Path,
    (certificate, key): (PathBuf, PathBuf),
) -> Result<Option<Vec<PathBuf>>, Fault> {
    if exists(current)? {
        return Ok(Some(vec![current.to_owned()]));
    }
    // An update that was cut short is completed at the start.
    match fs::symlink_metadata(updated) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(updated, &error)),
        Ok(metadata) if !metadata.is_symlink() => {
            let why = format!("{} is not a link, and {} does not lead anywhere", updated.display(), current.display());
            return Err(Fault::start(why, "move it away, or let `perennial run` put it right".into()));
        }
        Ok(_) if exists(updated)? => return Ok(Some(vec![updated.to_owned()])),
        Ok(_) => {}
    }
    Ok((exists(&certificate)? && exists(&key)?).then_some(vec![certificate, key]))
}

/// As Go's `os.Stat` would have it: a link that leads nowhere is not there.
fn exists(path: &Path) -> Result<bool, Fault> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// The judgement of a pair.
struct Read {
    /// The chain, as far as it can be read.
    pair: Option<Pair>,
    /// Why it cannot be told whether Go reads the pair.
    doubt: Option<Fault>,
}

/// What is found must be a pair: nowhere else is looked after that.
fn read(files: Vec<PathBuf>) -> Result<Read, Fault> {
    let file = files[0].display().to_string();
    let mut read = Vec::new();
    for path in &files {
        match contents(path).map_err(|error| unreadable(path, &error))? {
            Some(contents) => read.push(contents),
            None => {
                let doubt = in_doubt(&file, &format!("{} is longer than 1 MiB", path.display()));
                return Ok(Read { pair: None, doubt: Some(doubt) });
            }
        }
    }
    let pair = |chain| Pair { file: file.clone(), chain };
    // One file, or the certificate's and the key's.
    match go_verdict(&read[0], &read[read.len() - 1]) {
        GoVerdict::Loads(chain) => Ok(Read { pair: Some(pair(chain)), doubt: None }),
        GoVerdict::Unknown { chain, why } => Ok(Read { pair: chain.map(pair), doubt: Some(in_doubt(&file, &why)) }),
        GoVerdict::Refuses(why) => {
            let remedy = "move the file to another directory, and give the kubelet a bootstrap kubeconfig; \
                          or let `perennial run` replace the pair";
            Err(Fault::start(format!("{file}: {why}"), remedy.into()))
        }
    }
}

fn in_doubt(file: &str, why: &str) -> Fault {
    Fault {
        why: format!("perennial cannot read {file}: {why}; kubelet may"),
        remedy: "see the kubelet's log, or let `perennial run` replace the pair with one that both can read".into(),
    }
}

/// `None` for a file that is longer than perennial reads.
fn contents(file: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let metadata = fs::metadata(file)?;
    // A pipe would hold us up as it would a kubelet.
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
    Fault::start(why, "see to it that its owner can read it, and that it is a file or a link to one".into())
}

/// Nor has it anywhere else to put a certificate.
fn not_writable(directory: &Path) -> Option<Fault> {
    let error = io::Error::from(access(directory, Access::WRITE_OK | Access::EXEC_OK).err()?);
    let why =
        format!("could not put its next certificate in place: {} cannot be written to: {error}", directory.display());
    Some(Fault { why, remedy: "see to it that whoever runs the kubelet may write there".into() })
}

/// A kubelet replaces links, and nothing else.
fn in_the_way(link: &Path) -> Option<Fault> {
    let metadata = fs::symlink_metadata(link).ok().filter(|metadata| !metadata.is_symlink())?;
    let what = if metadata.is_file() { "a regular file" } else { "neither file nor link" };
    let why = format!("could not put its next certificate in place: {} is {what}, and no link", link.display());
    let remedy =
        "rename it, and make a link to it by the old name; or let `perennial run` do that, when it next rotates";
    Some(Fault { why, remedy: remedy.into() })
}
