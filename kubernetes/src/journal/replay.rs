//! Does every step of a journal again.

use std::collections::BTreeMap;
use std::fmt;

use perennial::{Instant, Now, RotationMachine, UnixTime};
use serde_json::error::Category;

use super::text::words;
use super::{Line, VERSION};
use crate::rotation::Step;

/// The machines of a journal, as far as it has been read.
#[derive(Debug, Default)]
pub struct Replay {
    machines: BTreeMap<String, RotationMachine>,
}

/// What a line tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Of which machine.
    pub of: String,
    /// When.
    pub at: Now,
    /// The story, in one line.
    pub story: String,
    /// Worth telling: it is more than a look at the clock.
    pub eventful: bool,
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
    pub fn line(&mut self, line: &str) -> Result<Told, ReplayError> {
        let line = serde_json::from_str(line).map_err(|error| ReplayError::text(&error))?;
        match line {
            Line::Begin { version, .. } if version != VERSION => Err(ReplayError::Version(version)),
            Line::Begin { of, at, machine, .. } => {
                let machine = RotationMachine::restore(machine.checkpoint().map_err(ReplayError::Value)?);
                let story = format!("begins | {machine}");
                self.machines.insert(of.clone(), machine);
                Ok(Told { of, at: now(at), story, eventful: true })
            }
            Line::Step { of, at, event, actions: journal } => {
                let (now, event) = (now(at), event.event().map_err(ReplayError::Value)?);
                let Some(machine) = self.machines.get_mut(&of) else { return Err(ReplayError::NotBegun(of)) };
                let before = machine.clone();
                let actions = machine.handle(event.clone(), now);
                if words(&actions) != journal {
                    let again = words(&actions);
                    return Err(ReplayError::Differs { event: event.to_string(), journal, again });
                }
                let step = Step { now, event: &event, actions: &actions, before: &before, after: machine };
                let story = format!("{event} -> {actions} | {machine}");
                let eventful = !step.is_uneventful();
                Ok(Told { of, at: now, story, eventful })
            }
        }
    }
}

const fn now((instant, unix): (u64, i64)) -> Now {
    Now { instant: Instant::from_millis(instant), unix: UnixTime::from_millis(unix) }
}

/// Why a line could not be done once more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplayError {
    /// It is not a line of a journal. The last line of one that was being written when its machine stopped may be cut.
    Text {
        /// What is wrong.
        what: &'static str,
        /// Where in the line.
        column: usize,
    },
    /// Something in it means nothing to this version of perennial.
    Value(&'static str),
    /// The journal is of another version.
    Version(u64),
    /// Of this machine nothing was said before.
    NotBegun(String),
    /// The same event leads to something else now: another version of perennial, or a bug.
    Differs {
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
            Category::Eof => "it is cut short",
            Category::Data => "it is not a line of a journal",
            Category::Syntax | Category::Io => "it is not JSON",
        };
        Self::Text { what, column: error.column() }
    }
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |actions: &[String]| if actions.is_empty() { "nothing".to_owned() } else { actions.join(", ") };
        match self {
            Self::Text { what, column } => write!(f, "{what} (column {column})"),
            Self::Value(what) => f.write_str(what),
            Self::Version(version) => write!(f, "the journal is of version {version}; this is version {VERSION}"),
            Self::NotBegun(of) => write!(f, "nothing was said of {of} before: the beginning of the journal is missing"),
            Self::Differs { event, journal, again } => {
                write!(f, "{event} led to {}; now it leads to {}", list(journal), list(again))
            }
        }
    }
}

impl std::error::Error for ReplayError {}
