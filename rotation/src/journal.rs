//! A journal: every step of every machine as a line of text, from which the run can be replayed. A bug report is a journal.
//!
//! A line is a JSON object. The first line about a machine is all that it is; each line after that is one step: when,
//! what happened, what followed. A machine is a pure function of these, so [`Replay`] can do every step again,
//! find out whether it leads to the same, and tell the story. Certificates are in it by their facts, keys not at all.

mod replay;
mod text;

use perennial::{Escaped, Now, RotationMachine};
use serde::{Deserialize, Serialize};

use crate::rotation::Transition;

pub use replay::{Replay, ReplayError, Replayed};
use text::{CheckpointText, EventText};

/// Of the text of a journal. Another one is not understood.
const VERSION: u64 = 1;

/// The line a journal begins with, for each machine in it: all that it is. Ends with a line break.
pub fn begin(of: &str, now: Now, machine: &RotationMachine) -> String {
    begin_after(of, now, machine, 0)
}

/// The line that begins anew where this many steps, of whichever machines, are missing. Ends with a line break.
pub fn begin_after(of: &str, now: Now, machine: &RotationMachine, missing: u64) -> String {
    let machine = Box::new(CheckpointText::of(machine.checkpoint()));
    let perennial = Some(env!("CARGO_PKG_VERSION").to_owned());
    line(&Line::Begin { version: VERSION, perennial, of: of.to_owned(), at: at(now), missing, machine })
}

/// The line for one step. Ends with a line break.
pub fn step(of: &str, step: &Transition) -> String {
    let (event, actions) = (EventText::of(&step.event), text::words(&step.actions));
    line(&Line::Step { of: of.to_owned(), at: at(step.now), event, actions })
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Line {
    Begin {
        version: u64,
        /// Whose machine it is: the version of perennial.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        perennial: Option<String>,
        of: String,
        at: (u64, i64),
        /// Steps that were dropped before this line.
        #[serde(default, skip_serializing_if = "is_zero")]
        missing: u64,
        machine: Box<CheckpointText>,
    },
    Step {
        of: String,
        /// By the monotonic and by the wall clock, in milliseconds.
        at: (u64, i64),
        event: EventText,
        actions: Vec<String>,
    },
}

const fn is_zero(count: &u64) -> bool {
    *count == 0
}

const fn at(now: Now) -> (u64, i64) {
    (now.instant.as_millis(), now.unix.as_millis())
}

fn line(line: &Line) -> String {
    // Names, numbers and lists always serialize.
    format!("{:#}\n", Escaped(&serde_json::to_string(line).unwrap_or_default()))
}
