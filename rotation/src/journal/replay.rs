//! Does every step of a journal again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use perennial::{Escaped, Instant, Now, RotationMachine, UnixTime};
use serde_json::error::Category;

use super::text::words;
use super::{Line, VERSION};
use crate::rotation::Transition;

/// The machines of a journal, as far as it has been read.
#[derive(Debug, Default)]
pub struct Replay {
    machines: BTreeMap<String, Arc<RotationMachine>>,
}

/// What a line tells.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// Of which machine.
    pub of: String,
    /// When.
    pub at: Now,
    /// The machine afterwards.
    pub machine: Arc<RotationMachine>,
    /// Where a journal begins: the version of perennial that wrote it, if it says so.
    pub perennial: Option<String>,
    /// Number of steps, of all machines, that are missing before this line, where a journal begins anew.
    pub missing: u64,
    /// The journal begins here, with the machine at exactly the point the replay has come to: it goes on in another file.
    goes_on: bool,
    step: Option<Transition>,
}

impl Replayed {
    /// The step, as its observers saw it. `None`: the journal of this machine begins here.
    pub const fn step(&self) -> Option<&Transition> {
        self.step.as_ref()
    }

    /// The journal begins here, with the machine at exactly the point the replay has come to: it goes on in another file.
    pub const fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Not worth telling: a look at the clock, or a journal that goes on.
    pub fn is_uneventful(&self) -> bool {
        self.step.as_ref().map_or(self.goes_on, Transition::is_uneventful)
    }
}

/// One line, as in a trace.
impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step() {
            Some(step) => step.fmt(f),
            None => write!(f, "{} | begins | {}", self.at, self.machine),
        }
    }
}

impl Replay {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Does what this line says once more.
    ///
    /// # Errors
    /// [`ReplayError`]. After [`ReplayError::Differs`] the replay goes on from what its own machine did;
    /// after any other, nothing has changed.
    pub fn line(&mut self, line: &str) -> Result<Replayed, ReplayError> {
        let line = serde_json::from_slice(line.as_bytes()).map_err(|error| ReplayError::text(&error))?;
        match line {
            Line::Begin { version, .. } if version != VERSION => Err(ReplayError::Version(version)),
            Line::Begin { of, at, missing, machine, perennial, .. } => {
                let machine = Arc::new(RotationMachine::restore(machine.checkpoint().map_err(ReplayError::Value)?));
                let before = self.machines.insert(of.clone(), machine.clone());
                let goes_on = missing == 0 && before.as_ref() == Some(&machine);
                Ok(Replayed { of, at: now(at), machine, perennial, missing, goes_on, step: None })
            }
            Line::Step { of, at, event, actions: journal } => {
                let (at, event) = (now(at), event.event().map_err(ReplayError::Value)?);
                let Some(machine) = self.machines.get_mut(&of) else { return Err(ReplayError::NotBegun(of)) };
                let step = Transition::of(machine, event, at);
                let again = words(&step.actions);
                if again != journal {
                    return Err(ReplayError::Differs { of, at, event: step.event.to_string(), journal, again });
                }
                let machine = machine.clone();
                Ok(Replayed { of, at, machine, perennial: None, missing: 0, goes_on: false, step: Some(step) })
            }
        }
    }
}

const fn now((instant, unix): (u64, i64)) -> Now {
    Now { instant: Instant::from_millis(instant), unix: UnixTime::from_millis(unix) }
}

/// Why a line could not be done once more. A file may say anything: names from the file are escaped for terminals.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The line ends too soon. It was being written when the process, or the disk, came to its end.
    #[error("it is cut short")]
    Cut,
    /// It is not a line of a journal.
    #[error("{what} (column {column})")]
    Text {
        /// What is wrong.
        what: &'static str,
        /// Where in the line.
        column: usize,
    },
    /// Something in it means nothing to this version of perennial.
    #[error("{0}")]
    Value(&'static str),
    /// The journal is of another version.
    #[error("the journal is of version {0}; this is version {VERSION}")]
    Version(u64),
    /// Of this machine nothing was said before.
    #[error("nothing was said of {} before: the beginning of the journal is missing", Escaped(.0))]
    NotBegun(String),
    /// The same event leads to something else now: another version of perennial, or a bug.
    #[error("{} led to {}; now it leads to {}", Escaped(event), Escaped(&list(journal)), Escaped(&list(again)))]
    Differs {
        /// Of which machine.
        of: String,
        /// When.
        at: Now,
        /// The event.
        event: String,
        /// What it led to.
        journal: Vec<String>,
        /// What it leads to now.
        again: Vec<String>,
    },
}

impl ReplayError {
    fn text(error: &serde_json::Error) -> Self {
        let what = match error.classify() {
            Category::Eof => return Self::Cut,
            Category::Data => "it is not a line of a journal",
            Category::Syntax | Category::Io => "it is not JSON",
        };
        Self::Text { what, column: error.column() }
    }
}

fn list(actions: &[String]) -> String {
    if actions.is_empty() { "nothing".to_owned() } else { actions.join(", ") }
}
