//! A journal: every step of every machine as a line of text, from which the run can be replayed. Attach a journal to a
//! bug report.
//!
//! Each line is a JSON object. The first line of a machine is its whole state; each further line is one step: the time,
//! the event and the resulting actions. A machine is a pure function of state, event and time, so that [`Replay`] can
//! repeat every step and compare its actions. A journal contains the facts of certificates (names, validity,
//! fingerprint), and no keys.

mod replay;
mod text;

use perennial::{Escaped, Now, RotationMachine};
use serde::{Deserialize, Serialize};

use crate::rotation::Transition;

pub use replay::{Replay, ReplayError, Replayed};
use text::{CheckpointText, EventText};

/// Version of the journal format. [`Replay`] reads no other version.
const VERSION: u64 = 1;

/// The line that begins the journal of the machine named `of`: its whole state. Ends with a line break.
pub fn begin(of: &str, now: Now, machine: &RotationMachine) -> String {
    begin_after(of, now, machine, 0)
}

/// Like [`begin`], for a journal that continues after a gap of `missing` steps of any machines. Ends with a line break.
pub fn begin_after(of: &str, now: Now, machine: &RotationMachine, missing: u64) -> String {
    let machine = Box::new(CheckpointText::of(machine.checkpoint()));
    let perennial = Some(env!("CARGO_PKG_VERSION").to_owned());
    line(&Line::Begin { version: VERSION, perennial, of: of.to_owned(), at: at(now), missing, machine })
}

/// The line for one step of the machine named `of`. Ends with a line break.
pub fn step(of: &str, step: &Transition) -> String {
    let (event, actions) = (EventText::of(&step.event), text::words(&step.actions));
    line(&Line::Step { of: of.to_owned(), at: at(step.now), event, actions })
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Line {
    Begin {
        version: u64,
        /// The version of perennial that wrote the line.
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
        /// Time by the monotonic clock and by the wall clock (Unix time), in milliseconds.
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
    // Names, numbers and lists always serialize. Escaped, so that a terminal can show a journal with hostile names.
    format!("{:#}\n", Escaped(&serde_json::to_string(line).unwrap_or_default()))
}
