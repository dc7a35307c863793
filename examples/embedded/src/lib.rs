//! The machine on a microcontroller: a static library, without `std`, for firmware in C. Copy [`rotation_run`], the
//! superloop; `board` is its boundary to the firmware. `.ci/embedded` builds the library for Cortex-M4F, Cortex-M0 and
//! RISC-V, and runs it on the host with the board of `board.c`.
//!
//! This example requests a new certificate at each start. Firmware that stores its certificate and its last request
//! hands both to the machine after a restart, in [`Setup::certificate`] and [`Setup::pending`].
#![no_std]

mod board;

use core::time::Duration;

use perennial::{Action, Arc, Event, Policy, RotationMachine, Setup, Template};

/// Rotates the certificate of this board for ever.
#[unsafe(no_mangle)]
pub extern "C" fn rotation_run() -> ! {
    let template = Arc::new(Template::new("sensor-1"));
    let seed = perennial::seed("example.com/sensors", template.common_name());
    // The machine wakes at least that often, to notice steps of the wall clock. A battery lasts longer with less.
    let policy = Arc::new(Policy { max_sleep: Duration::from_secs(4 * 3600), ..Policy::default() });
    let setup = Setup { seed, policy, template: Some(template.clone()), ..Setup::default() };
    let mut machine = RotationMachine::new(setup, board::now());

    let mut event = Event::Tick;
    loop {
        let mut written = None;
        for action in machine.handle(event, board::now()) {
            match action {
                Action::SubmitCsr { id, template, key } => board::request(id, &template, key),
                // The machine ignores an answer that comes all the same.
                Action::CancelRequest { .. } => {}
                Action::WriteCert { id, certificate, serve } => {
                    let is_written = board::write(&certificate, serve);
                    written = Some(if is_written { Event::CertWritten { id } } else { Event::WriteFailed { id } });
                }
                // Each sleep reads the deadline.
                Action::SetTimer(_) => {}
            }
        }
        event = written.or_else(|| board::answer(&template)).unwrap_or_else(|| {
            board::sleep(machine.deadline());
            board::answer(&template).unwrap_or(Event::Tick)
        });
    }
}
