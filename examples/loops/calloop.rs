//! The machine in a calloop event loop. Copy [`Program::handle`] and the two sources in `main`: a timer that expires at
//! `machine.deadline()`, and a channel for the answers of the signer. Replace [`Ca`] by your signer, and [`Keys`] by
//! your keys and your disk.
//! Run `cargo run -p perennial-examples --example calloop`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use calloop::channel::{self, Sender, channel};
use calloop::timer::{TimeoutAction, Timer};
use calloop::{Dispatcher, EventLoop};
use perennial::{Action, Event, Failure, RequestId, RotationMachine};
use perennial_examples::local_signer::{self, AnyError, Ca, Keys};
use perennial_rotation::clock;

struct Program {
    machine: RotationMachine,
    keys: Keys,
    ca: Arc<Ca>,
    answers: Sender<(RequestId, Vec<u8>)>,
}

impl Program {
    fn handle(&mut self, event: Event) {
        let mut inbox = VecDeque::from([event]);
        while let Some(event) = inbox.pop_front() {
            for action in self.machine.handle(event, clock::now()) {
                match action {
                    Action::SubmitCsr { id, template, key } => match self.keys.request(&template, key) {
                        Ok(csr) => {
                            let (ca, answers) = (self.ca.clone(), self.answers.clone());
                            thread::spawn(move || answers.send((id, ca.answer(csr.as_bytes()))));
                        }
                        Err(_) => inbox.push_back(Event::CsrFailed { id, failure: Failure::Local, retry_after: None }),
                    },
                    Action::WriteCert { id, certificate, .. } => inbox.push_back(self.keys.write(id, &certificate)),
                    // The machine ignores a late answer, and `main` sets the timer after each event.
                    Action::CancelRequest { .. } | Action::SetTimer(_) => {}
                }
            }
        }
    }

    fn due(&self) -> Instant {
        // Without a deadline, an hourly Tick does no harm.
        Instant::now() + self.machine.deadline().map_or(Duration::from_secs(3600), clock::until)
    }
}

fn main() -> Result<(), AnyError> {
    let (mut event_loop, (answers, answered)) = (EventLoop::try_new()?, channel());
    let (machine, keys, ca) = (local_signer::machine(clock::now()), Keys::new()?, Arc::new(Ca::new()?));
    let mut program = Program { machine, keys, ca, answers };

    let (sources, mut wakeups) = (event_loop.handle(), 0);
    let timer = Dispatcher::new(Timer::from_deadline(program.due()), |_, (), program: &mut Program| {
        program.handle(Event::Tick);
        TimeoutAction::ToInstant(program.due())
    });
    let token = sources.register_dispatcher(timer.clone())?;
    let received = sources.insert_source(answered, |message, (), program| {
        if let channel::Event::Msg((id, answer)) = message {
            let event = program.keys.answered(id, &answer);
            program.handle(event);
        }
    });
    received.map_err(|refused| refused.error)?;

    while program.keys.written() < 3 {
        event_loop.dispatch(None, &mut program)?;
        wakeups += 1;
        // An answer may have moved the deadline.
        timer.as_source_mut().set_deadline(program.due());
        sources.update(&token)?;
    }
    println!("issued: {} wakeups: {wakeups}", program.keys.written());
    Ok(())
}
