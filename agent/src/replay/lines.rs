//! Lines of files nobody vouches for.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

/// Longer than any line of a journal: a machine knows few names.
const LONGEST: u64 = 1 << 20;

/// The lines of one file, counted.
pub(super) struct Lines {
    path: PathBuf,
    from: Box<dyn BufRead>,
    number: u64,
}

/// One line, or what there is instead of one.
pub(super) enum Line {
    Text(String),
    /// Longer than any line of a journal.
    Endless,
}

impl Lines {
    /// Of this file; `-` is standard input.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let from: Box<dyn BufRead> = match path.as_os_str() == "-" {
            true => Box::new(BufReader::new(io::stdin())),
            false => Box::new(BufReader::new(File::open(path)?)),
        };
        Ok(Self { path: path.to_owned(), from, number: 0 })
    }

    /// Where the last line came from, as compilers and editors write it.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.path.display(), self.number)
    }

    /// The next line, without its end.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        if (&mut self.from).take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        if !whole && line.len() as u64 == LONGEST {
            self.from.skip_until(b'\n')?;
            return Ok(Some(Line::Endless));
        }
        Ok(Some(Line::Text(String::from_utf8_lossy(&line).into_owned())))
    }
}
