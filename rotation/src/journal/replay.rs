//! [`Replay`]: repeats every step of a journal, and compares the actions with the recorded ones.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use perennial::{Escaped, Now, RotationMachine, printable};
use serde_json::error::Category;

use super::{CheckpointFields, Line, VERSION, words};
use crate::rotation::Transition;

/// Replay of a journal, line by line. Contains each machine in its state after the lines replayed so far.
#[derive(Debug, Default)]
pub struct Replay {
    machines: BTreeMap<String, Arc<RotationMachine>>,
}

/// One replayed line of a journal.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// Name of the machine that the line is about.
    pub of: String,
    /// Time of the step, or of the state in a first line.
    pub at: Now,
    /// The machine after the step; for a first line, in the recorded state.
    pub machine: Arc<RotationMachine>,
    /// Version of perennial that wrote the journal. `None` for a step, and for a first line without a version.
    pub perennial: Option<String>,
    /// For a first line: the number of steps, of all machines, that the journal lacks before this line.
    pub missing: u64,
    continues: bool,
    step: Option<Transition>,
}

impl Replayed {
    /// The replayed step, with the event and the actions that observers saw in the original run. `None` for a first
    /// line, which contains a machine's whole state.
    pub const fn step(&self) -> Option<&Transition> {
        self.step.as_ref()
    }

    /// True for a first line that continues the journal of an earlier file: no steps are missing, and the state in the
    /// line is exactly the state that the replay has reached.
    pub const fn continues(&self) -> bool {
        self.continues
    }

    /// True for lines that a summary may leave out: a Tick without effect, or a first line at which the journal
    /// continues from another file.
    pub fn is_uneventful(&self) -> bool {
        self.step.as_ref().map_or(self.continues, Transition::is_uneventful)
    }
}

/// One line for people: the time, the event, the actions, and the machine after the event.
impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step() {
            Some(step) => step.fmt(f),
            None => write!(f, "{} | begins | {}", self.at, self.machine),
        }
    }
}

impl Replay {
    /// Makes a replay that has read no line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replays one line. Lines of a machine must come in the order in which they were written.
    ///
    /// # Errors
    /// [`ReplayError`]: the line cannot be replayed, or its actions differ. After [`ReplayError::Differs`], the machine
    /// is in the state that the replay led to. Any other error leaves the replay unchanged.
    pub fn line(&mut self, line: &str) -> Result<Replayed, ReplayError> {
        match serde_json::from_slice(line.as_bytes()).map_err(|error| ReplayError::text(&error))? {
            Line::Begin { version, .. } if version != VERSION => Err(ReplayError::Version(version)),
            Line::Begin { of, at, missing, machine, perennial, .. } => {
                let checkpoint = CheckpointFields::deserialize(machine).map_err(|error| ReplayError::text(&error))?;
                let machine = Arc::new(RotationMachine::restore(checkpoint));
                let before = self.machines.insert(of.clone(), machine.clone());
                let continues = missing == 0 && before.as_ref() == Some(&machine);
                Ok(Replayed { of, at, machine, perennial, missing, continues, step: None })
            }
            Line::Step { of, at, event, actions: journal } => {
                let Some(machine) = self.machines.get_mut(&of) else { return Err(ReplayError::NotBegun(of)) };
                let step = Transition::of(machine, event, at);
                let again = words(&step.actions);
                if again != journal {
                    return Err(ReplayError::Differs { of, at, event: step.event.to_string(), journal, again });
                }
                let machine = machine.clone();
                Ok(Replayed { of, at, machine, perennial: None, missing: 0, continues: false, step: Some(step) })
            }
        }
    }
}

/// Error of a line that cannot be replayed, or whose replay differs. `Display` escapes text from the file for
/// terminals.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The line ends too soon: the process was killed, or the disk was full, while the line was being written.
    #[error("the line is cut short")]
    Cut,
    /// The line is not a line of a journal, or contains a value that this version of perennial does not know: the
    /// problem, as a clause.
    #[error("{0}")]
    Text(String),
    /// The journal is of another format version.
    #[error(
        "the journal has format version {0}, and this perennial reads version {VERSION}; replay the journal with the \
         perennial that wrote it"
    )]
    Version(u64),
    /// The line is a step of a machine for which no first line was read: the beginning of the journal is missing.
    /// Contains the name of the machine.
    #[error("no snapshot of {} before this step: the beginning of the journal is missing", Escaped(.0))]
    NotBegun(String),
    /// The event leads to other actions than in the original run: another version of perennial wrote the journal, or
    /// there is a bug.
    #[error(
        "{}: the journal has {}; the replay has {}",
        Escaped(event),
        Escaped(&list(journal)),
        Escaped(&list(again))
    )]
    Differs {
        /// Name of the machine.
        of: String,
        /// Time of the step.
        at: Now,
        /// The event, as text.
        event: String,
        /// The machine's actions according to the journal.
        journal: Vec<String>,
        /// The machine's actions in the replay.
        again: Vec<String>,
    },
}

impl ReplayError {
    fn text(error: &serde_json::Error) -> Self {
        let what = match error.classify() {
            Category::Eof => return Self::Cut,
            Category::Data => "the line is not from a journal",
            Category::Syntax | Category::Io => "the line is not JSON",
        };
        // The error may quote the line.
        Self::Text(format!("{what}: {}", printable(&error.to_string())))
    }
}

fn list(actions: &[String]) -> String {
    if actions.is_empty() { "nothing".to_owned() } else { actions.join(", ") }
}
