//! Reads lines of a file that may be no journal, in bounded memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, IsTerminal as _, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

/// Longest line that is read, in bytes: more than any line of a journal has.
const LONGEST: u64 = 1 << 20;
/// Longest line that is skipped, in bytes: more than the zeros that a power cut may leave in a journal.
const LONGEST_GAP: u64 = 64 << 20;

/// The lines of one file, and the number of the last line read.
pub(super) struct JournalLines {
    path: PathBuf,
    /// The part of the file that was not read yet.
    from: Box<dyn BufRead>,
    number: u64,
}

/// A line of a journal, or of a file that is no journal.
pub(super) enum Line {
    /// A line without its line break.
    Text(String),
    /// A line that is longer than any line of a journal, and was skipped.
    Endless,
}

impl JournalLines {
    /// Opens a file or pipe; `-` is standard input.
    ///
    /// # Errors
    /// If the system refuses, or the path is a device other than a terminal: a device may have no end.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let from: Box<dyn BufRead> = match path.as_os_str() == "-" {
            true => Box::new(BufReader::new(io::stdin())),
            false => {
                let file = File::open(path)?;
                let kind = file.metadata()?.file_type();
                if kind.is_block_device() || kind.is_char_device() && !file.is_terminal() {
                    let why = "it is a device; name a file or a pipe";
                    return Err(io::Error::new(ErrorKind::InvalidInput, why));
                }
                Box::new(BufReader::new(file))
            }
        };
        Ok(Self { path: path.to_owned(), from, number: 0 })
    }

    /// The place of the line that was read last, as `FILE:NUMBER`, which editors can open.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.path.display(), self.number)
    }

    /// Reads the next line; `None` at the end of the file.
    ///
    /// # Errors
    /// If the system refuses, or no line ends within [`LONGEST_GAP`].
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        if (&mut self.from).take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        if !whole && line.len() as u64 == LONGEST {
            // No journal has such a line, but a power cut may leave zeros: the replay reports the line as damage, and
            // goes on with the next one.
            if (&mut self.from).take(LONGEST_GAP).skip_until(b'\n')? as u64 == LONGEST_GAP {
                let why = format!("no line ends within {} MiB; is it a journal?", LONGEST_GAP >> 20);
                return Err(io::Error::new(ErrorKind::InvalidData, why));
            }
            return Ok(Some(Line::Endless));
        }
        // Lossy, since invalid UTF-8 is damage of one line and must not end the replay.
        Ok(Some(Line::Text(String::from_utf8_lossy(&line).into_owned())))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tempfile::TempDir;

    use super::*;

    fn lines(from: impl io::Read + 'static) -> JournalLines {
        JournalLines { path: "journal".into(), from: Box::new(BufReader::new(from)), number: 0 }
    }

    #[test]
    fn long_line_is_skipped_and_endless_line_is_refused() {
        let long = io::repeat(b'x').take(LONGEST * 3).chain(&b"\nnext\n"[..]);
        let mut found = lines(long);
        assert!(matches!(found.next(), Ok(Some(Line::Endless))));
        assert!(matches!(found.next(), Ok(Some(Line::Text(text))) if text == "next"));
        let error = lines(io::repeat(0)).next().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("no line ends within 64 MiB"), "{error}");
    }

    #[test]
    fn pipe_is_read_to_its_end() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let to = path.clone();
        let writer = thread::spawn(move || fs::write(to, "one\ntwo"));
        let mut found = JournalLines::open(&path).unwrap();
        for expected in ["one", "two"] {
            assert!(matches!(found.next(), Ok(Some(Line::Text(text))) if text == expected));
        }
        assert!(matches!(found.next(), Ok(None)));
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn device_as_journal_is_refused() {
        for device in ["/dev/zero", "/dev/null"] {
            let error = JournalLines::open(Path::new(device)).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("it is a device"), "{error}");
        }
    }
}
