//! The machine in a loop around io_uring. Copy the loop in `main`: each round submits what is to be read, waits for a
//! completion until `machine.deadline()`, and hands the machine what has arrived and a [`Event::Tick`]. Replace
//! [`Connection`] by the sockets of your signer, and [`Keys`] by your keys and your disk. Prints `refused: io_uring:`
//! and the reason where the kernel forbids io_uring. Needs Linux 5.11.
//! Run `cargo run -p perennial-examples --example io_uring`.
#![expect(unsafe_code, reason = "the caller of io_uring must keep alive what an entry refers to")]

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, AsRawFd as _};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use perennial::{Action, Event};
use perennial_examples::local_signer::{self, AnyError, Connection, Keys};
use perennial_rotation::clock;
use rustix::event::PollFlags;
use rustix::io::Errno;

fn main() -> Result<(), AnyError> {
    let (mut machine, mut keys) = (local_signer::machine(clock::now()), Keys::new()?);
    let signer = Connection::open()?;
    let mut ring = match IoUring::new(8) {
        Ok(ring) => ring,
        Err(error) => {
            println!("refused: io_uring: {error}");
            return Ok(());
        }
    };
    let readable = opcode::PollAdd::new(Fd(signer.as_fd().as_raw_fd()), PollFlags::IN.bits().into()).build();

    let (mut wakeups, mut is_polled) = (0, false);
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

        if !is_polled {
            // SAFETY: the entry refers to no memory, and the socket is closed after the ring.
            unsafe { ring.submission().push(&readable)? };
            is_polled = true;
        }
        let wait = machine.deadline().map(|at| Timespec::from(clock::until(at)));
        let mut until = SubmitArgs::new();
        if let Some(wait) = &wait {
            until = until.timespec(wait);
        }
        match ring.submitter().submit_with_args(1, &until) {
            Err(error) if [Errno::TIME, Errno::INTR].map(Some).contains(&Errno::from_io_error(&error)) => {}
            submitted => drop(submitted?),
        }
        wakeups += 1;
        // The only operation is the poll of the socket, which completes once.
        if ring.completion().next().is_some() {
            is_polled = false;
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
