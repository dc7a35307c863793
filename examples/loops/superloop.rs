//! The machine in a superloop, as on a microcontroller: one endless loop, a counter of milliseconds, a mailbox that an
//! interrupt fills, and sleep until the next interrupt. Copy the loop in `main`; `examples/embedded` has such a loop
//! for boards, without `std`. Here a thread plays the modem and its interrupt, and `park_timeout` plays `wfi` with an
//! alarm set.
//! Run `cargo run -p perennial-examples --example superloop`.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant as Counter};

use perennial::{Action, Event, Instant, Now, RequestId};
use perennial_examples::local_signer::{self, AnyError, Ca, Keys};
use perennial_rotation::clock;

/// The answer of the signer, from the interrupt to the loop.
static MAILBOX: Mutex<Option<(RequestId, Vec<u8>)>> = Mutex::new(None);

/// Sends a CSR through the modem. When the answer arrives, the modem's interrupt fills the mailbox and wakes the loop.
fn transmit(ca: Arc<Ca>, id: RequestId, csr: String) {
    let main = thread::current();
    thread::spawn(move || {
        let answer = ca.answer(csr.as_bytes());
        *MAILBOX.lock().unwrap_or_else(PoisonError::into_inner) = Some((id, answer));
        main.unpark();
    });
}

fn main() -> Result<(), AnyError> {
    let (mut keys, ca) = (Keys::new()?, Arc::new(Ca::new()?));
    // The wall clock is read once; from then on it is the counter plus an offset. On a board, it is set by NTP, or by
    // the dates of the server with `Event::ServerDated`.
    let (counter, boot) = (Counter::now(), clock::now().unix);
    let now = || Now {
        instant: Instant::from_millis(u64::try_from(counter.elapsed().as_millis()).unwrap_or(u64::MAX)),
        unix: boot.after(counter.elapsed()),
    };
    let mut machine = local_signer::machine(now());

    let mut wakeups = 0;
    let mut event = Event::Tick;
    while keys.written() < 3 {
        // The write is done when `keys.write` returns, and is the only event of its own: one slot is enough.
        let mut written = None;
        for action in machine.handle(event, now()) {
            match action {
                Action::SubmitCsr { id, template, key } => transmit(ca.clone(), id, keys.request(&template, key)?),
                // The machine ignores an answer that comes all the same.
                Action::CancelRequest { .. } => {}
                Action::WriteCert { id, certificate, serve } => {
                    println!("write {certificate}, serve it: {serve}");
                    written = Some(keys.write(id, &certificate));
                }
                // Each sleep reads the deadline.
                Action::SetTimer(_) => {}
            }
        }
        event = written.or_else(|| received(&mut keys)).unwrap_or_else(|| {
            thread::park_timeout(machine.deadline().map_or(Duration::MAX, |at| at.since(now().instant)));
            wakeups += 1;
            received(&mut keys).unwrap_or(Event::Tick)
        });
    }
    println!("issued: {} wakeups: {wakeups}", keys.written());
    Ok(())
}

/// Empties the mailbox.
fn received(keys: &mut Keys) -> Option<Event> {
    let mail = MAILBOX.lock().unwrap_or_else(PoisonError::into_inner).take();
    mail.map(|(id, answer)| keys.answered(id, &answer))
}
