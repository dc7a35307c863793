//! The machine in a mio loop. Copy the loop in `main`: each wakeup hands the machine what has arrived and a
//! [`Event::Tick`], carries out the actions, and waits until `machine.deadline()`. Replace [`Connection`] by the
//! sockets of your signer, and [`Keys`] by your keys and your disk.
//! Run `cargo run -p perennial-examples --example mio`.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, AsRawFd as _};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use perennial::{Action, Event};
use perennial_examples::local_signer::{self, AnyError, Connection, Keys};
use perennial_rotation::clock;

const SIGNER: Token = Token(0);

fn main() -> Result<(), AnyError> {
    let (mut machine, mut keys, signer) = (local_signer::machine(clock::now()), Keys::new()?, Connection::open()?);
    let (mut poll, mut ready) = (Poll::new()?, Events::with_capacity(16));
    poll.registry().register(&mut SourceFd(&signer.as_fd().as_raw_fd()), SIGNER, Interest::READABLE)?;

    let mut wakeups = 0;
    let mut inbox = VecDeque::from([Event::Tick]);
    while keys.written() < 3 {
        while let Some(event) = inbox.pop_front() {
            for action in machine.handle(event, clock::now()) {
                match action {
                    Action::SubmitCsr { id, template, key } => signer.send(id, &keys.request(&template, key)?)?,
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

        match poll.poll(&mut ready, machine.deadline().map(clock::until)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            polled => polled?,
        }
        wakeups += 1;
        if ready.iter().any(|event| event.token() == SIGNER) {
            // mio reports a change only: read until nothing is left.
            while let Some((id, answer)) = signer.receive()? {
                inbox.push_back(keys.answered(id, &answer));
            }
        }
        // A Tick before the deadline changes nothing.
        inbox.push_back(Event::Tick);
    }
    println!("issued: {} wakeups: {wakeups}", keys.written());
    Ok(())
}
