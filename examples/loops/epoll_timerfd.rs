//! The machine in a loop around epoll, with a timerfd that [`Action::SetTimer`] sets. Copy the loop in `main` and
//! [`set_timer`]: the timer expires at the deadline even if the host was suspended in between. Replace [`Connection`]
//! by the sockets of your signer, and [`Keys`] by your keys and your disk. Run
//! `cargo run -p perennial-examples --example epoll_timerfd`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use perennial::{Action, Event, Instant};
use perennial_examples::local_signer::{self, AnyError, Connection, Keys};
use perennial_rotation::clock;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, read};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustix::time::{timerfd_create, timerfd_settime};

const SIGNER: u64 = 0;
const TIMER: u64 = 1;

/// Sets the timer to an instant of the clock that [`clock::now`] reads. `None` stops the timer.
fn set_timer(timer: &OwnedFd, deadline: Option<Instant>) -> io::Result<()> {
    let zero = Timespec::default();
    let it_value = match deadline.map(|at| at.as_millis().max(1)) {
        Some(at) => {
            Timespec { tv_sec: (at / 1000).try_into().unwrap_or(i64::MAX), tv_nsec: (at % 1000 * 1_000_000) as _ }
        }
        None => zero,
    };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: zero, it_value })?;
    Ok(())
}

fn main() -> Result<(), AnyError> {
    let (mut machine, mut keys, signer) = (local_signer::machine(clock::now()), Keys::new()?, Connection::open()?);
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    epoll::add(&epoll, &signer, EventData::new_u64(SIGNER), EventFlags::IN)?;
    epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
    set_timer(&timer, machine.deadline())?;

    let mut wakeups = 0;
    let (mut inbox, mut ready) = (VecDeque::new(), Vec::with_capacity(16));
    while keys.written() < 3 {
        ready.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut ready), None) {
            Err(Errno::INTR) => continue,
            waited => waited?,
        };
        wakeups += 1;
        for event in &ready {
            if event.data.u64() == TIMER {
                // Empties the timer, which is readable until then.
                let _ = read(&timer, &mut [0; 8]);
                inbox.push_back(Event::Tick);
            } else {
                inbox.extend(signer.receive()?.map(|(id, answer)| keys.answered(id, &answer)));
            }
        }
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
                    Action::SetTimer(deadline) => set_timer(&timer, deadline)?,
                }
            }
        }
    }
    println!("issued: {} wakeups: {wakeups}", keys.written());
    Ok(())
}
