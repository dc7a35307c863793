//! Reads files that other programs write: [`TokenFile`], and the errors of all such files.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use perennial::UnixTime;
use perennial_pki::CredentialError;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::{Identity, IdentitySource, InvalidToken, NotYet, Token};

/// Identity source: the bearer token in a file, such as a projected service account token. Read for each request.
#[derive(Clone, Debug)]
pub struct TokenFile(PathBuf);

impl TokenFile {
    /// Makes a source of the token in the file at this path. The file need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

impl IdentitySource for TokenFile {
    fn identity(&self) -> Result<Identity, NotYet> {
        let content = read(&self.0, MAX_PAIR).map_err(|error| NotYet::new(error.to_string()))?;
        let token = str::from_utf8(&content.bytes).map_err(|_| InvalidToken).and_then(Token::new);
        token.map(Identity::Token).map_err(|error| NotYet::new(format!("{}: {error}", self.0.display())))
    }
}

/// The content of a file.
#[derive(derive_more::Debug)]
pub(crate) struct FileContent {
    #[debug(skip)]
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    /// The time of the file's last modification, taken after its content was read; `None` if the file system does not
    /// know the time.
    pub(crate) modified_at: Option<UnixTime>,
}

/// Reads a regular file of at most `longest` bytes. Fails for other kinds of files, such as a pipe, which could block
/// for ever.
pub(crate) fn read(path: &Path, longest: u64) -> Result<FileContent, FileError> {
    let unreadable = |error| FileError::Unreadable(path.to_owned(), error);
    let require_file = |metadata: Metadata| match metadata.is_file() {
        true => Ok(metadata),
        false => Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))),
    };
    // Before opening: the opening alone of some devices has effects.
    require_file(fs::metadata(path).map_err(unreadable)?)?;
    // The path may be that of a pipe by now, which would block the opening until a writer comes.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut file = File::options().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let metadata = require_file(file.metadata().map_err(unreadable)?)?;
    let too_long = || FileError::TooLong { path: path.to_owned(), longest };
    if metadata.len() > longest {
        return Err(too_long());
    }
    // Room for all of it at once: a buffer that grows leaves copies of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).map_err(|_| too_long())? + 1));
    (&mut file).take(longest + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > longest {
        return Err(too_long());
    }
    // After reading, so that a write during the read is noticed.
    let modified_at = file.metadata().and_then(|metadata| metadata.modified()).ok().and_then(unix_time);
    Ok(FileContent { bytes, modified_at })
}

fn unix_time(time: SystemTime) -> Option<UnixTime> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(UnixTime::from_millis(i64::try_from(since.as_millis()).ok()?))
}

/// Size limit in bytes for a file with a chain, a key or a token.
pub(crate) const MAX_PAIR: u64 = 1 << 20;
/// Size limit in bytes for a file with a CA bundle.
pub(crate) const MAX_BUNDLE: u64 = 8 << 20;

/// Error of files that cannot be read, or do not make a pair. The error may be transient: a program that replaces two
/// files writes one of them first.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A file cannot be read.
    #[error("{0}: cannot be read: {1}")]
    Unreadable(PathBuf, #[source] io::Error),
    /// Several times in a row, a link on the path of a file was switched while the file was read.
    #[error("{0}: a link on its path is switched again and again")]
    Unsettled(PathBuf),
    /// A file is longer than the size limit for its kind of content.
    #[error("{path}: longer than {} MiB", longest >> 20)]
    TooLong {
        /// The path of the file.
        path: PathBuf,
        /// The size limit in bytes.
        longest: u64,
    },
    /// A file contains no certificate or no key, or the key does not belong to the certificate.
    #[error("{0}: {1}")]
    Unusable(PathBuf, #[source] CredentialError),
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn file_that_turns_into_pipe_during_reads_never_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let [file, pipe, beside, path] = ["file", "pipe", "beside", "path"].map(|name| directory.path().join(name));
        fs::write(&file, "content").unwrap();
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        fs::hard_link(&file, &path).unwrap();
        let reader = {
            let path = path.clone();
            thread::spawn(move || {
                let mut reads = [0; 2];
                while reads.contains(&0) || reads.iter().sum::<u32>() < 20_000 {
                    reads[usize::from(read(&path, 100).is_ok())] += 1;
                }
            })
        };
        let bound = Instant::now() + Duration::from_secs(60);
        while !reader.is_finished() {
            assert!(Instant::now() < bound, "a read blocks");
            for next in [&pipe, &file] {
                fs::hard_link(next, &beside).unwrap();
                fs::rename(&beside, &path).unwrap();
            }
        }
        reader.join().unwrap();
    }
}
