//! The machine in a `tokio::select!` over a channel and a deadline. Copy the loop in `main`: answers of the signer
//! arrive by the channel, and everything else happens in the actions. Replace [`Ca`] by your signer, and [`Keys`] by
//! your keys and your disk. For a whole rotation on tokio, with a Kubernetes signer, see `tokio`.
//! Run `cargo run -p perennial-examples --example tokio_select`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Action, Event};
use perennial_examples::local_signer::{self, AnyError, Ca, Keys};
use perennial_rotation::clock;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), AnyError> {
    let (mut machine, mut keys, ca) = (local_signer::machine(clock::now()), Keys::new()?, Arc::new(Ca::new()?));
    let (answers, mut answered) = unbounded_channel();

    let mut wakeups = 0;
    let mut inbox = VecDeque::from([Event::Tick]);
    while keys.written() < 3 {
        while let Some(event) = inbox.pop_front() {
            for action in machine.handle(event, clock::now()) {
                match action {
                    Action::SubmitCsr { id, template, key } => {
                        let csr = keys.request(&template, key)?;
                        let (ca, answers) = (ca.clone(), answers.clone());
                        // The receiver is gone once `main` has ended: nothing needs the answer then.
                        spawn_blocking(move || answers.send((id, ca.answer(csr.as_bytes()))));
                    }
                    // The machine ignores an answer that comes all the same.
                    Action::CancelRequest { .. } => {}
                    Action::WriteCert { id, certificate, serve } => {
                        println!("write {certificate}, serve it: {serve}");
                        inbox.push_back(keys.write(id, &certificate));
                    }
                    // Each wait reads the deadline.
                    Action::SetTimer(_) => {}
                }
            }
        }

        let due = machine.deadline().map_or(Duration::MAX, clock::until);
        inbox.push_back(tokio::select! {
            Some((id, answer)) = answered.recv() => keys.answered(id, &answer),
            () = sleep(due) => Event::Tick,
        });
        wakeups += 1;
    }
    println!("issued: {} wakeups: {wakeups}", keys.written());
    Ok(())
}
