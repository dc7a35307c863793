//! A journal: every step of every machine as a line of text, from which the run can be replayed. Attach a journal to a
//! bug report.
//!
//! Each line is a JSON object. The first line of a machine is its whole state; each further line is one step: the time,
//! the event and the resulting actions. A machine is a pure function of state, event and time, so that [`Replay`] can
//! repeat every step and compare its actions. A journal contains the facts of certificates (names, validity,
//! fingerprint), and no keys.

mod form;
mod replay;
mod values;

use perennial::{Actions, Escaped, Event, Now, RotationMachine, UnixTime};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rotation::Transition;

pub use replay::{Replay, ReplayError, Replayed};
use values::{CheckpointFields, EventFields};

/// Version of the journal format that this code writes, and the only one that [`Replay`] reads.
const VERSION: u64 = 2;

/// Returns the first line for the machine named `of`, with its whole state. Ends with a line break.
pub fn begin(of: &str, now: Now, machine: &RotationMachine) -> String {
    begin_after(of, now, machine, 0)
}

/// Returns the first line for the machine named `of`, with its whole state, in a journal that lacks the `missing` steps
/// (of all machines) before this line. Ends with a line break.
pub fn begin_after(of: &str, now: Now, machine: &RotationMachine, missing: u64) -> String {
    // Names, numbers and lists always serialize.
    let mut checkpoint = machine.checkpoint();
    if !checkpoint.hinted {
        checkpoint.rotate_at = UnixTime::default();
    }
    let machine = CheckpointFields::serialize(&checkpoint, serde_json::value::Serializer).unwrap_or_default();
    let perennial = Some(env!("CARGO_PKG_VERSION").to_owned());
    line(&Line::Begin { version: VERSION, perennial, of: of.to_owned(), at: now, missing, machine })
}

/// Returns the line for one step of the machine named `of`. Ends with a line break.
pub fn step(of: &str, step: &Transition) -> String {
    let Transition { now, event, actions, .. } = step;
    line(&Line::Step { of: of.to_owned(), at: *now, event: event.clone(), actions: words(actions) })
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
        #[serde(with = "form")]
        at: Now,
        /// The number of steps, of all machines, that the journal lacks before this line.
        #[serde(default, skip_serializing_if = "is_zero")]
        missing: u64,
        /// A [`CheckpointFields`], not parsed before the version is known to be [`VERSION`].
        machine: Value,
    },
    Step {
        of: String,
        /// Time by the monotonic clock and by the wall clock (Unix time), in milliseconds.
        #[serde(with = "form")]
        at: Now,
        #[serde(with = "EventFields")]
        event: Event,
        actions: Vec<String>,
    },
}

const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Each action as its `Display` text, as in logs.
fn words(actions: &Actions) -> Vec<String> {
    actions.clone().map(|action| action.to_string()).collect()
}

fn line(line: &Line) -> String {
    // Escaped, so that a terminal can show a journal with hostile names.
    format!("{:#}\n", Escaped(&serde_json::to_string(line).unwrap_or_default()))
}
