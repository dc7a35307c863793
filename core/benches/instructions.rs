//! Counts the instructions of the machine with callgrind: for an idle Tick, for each event, and for a whole rotation.
//! Needs valgrind: `cargo bench -p perennial --bench instructions`.
//!
//! A count of instructions is the same on a busy machine as on a quiet one. It includes the driver's loop over the
//! actions, and excludes the making of events. The times beside the counts are those of this computer.
//!
//! With `-- --test`, every case runs once without valgrind: a check that it still works.

use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial::{
    Action, Certificate, Event, Failure, Fingerprint, Now, Policy, RequestId, RotationMachine, Setup, SignerStatus,
    State, Template, UnixTime, Validity,
};

/// How often each case is repeated under callgrind.
const TIMES: u64 = 1000;
/// How often each case is repeated to measure its time.
const ROUND: u64 = 200_000;
/// 2026-01-01T00:00:00Z.
const EPOCH: UnixTime = UnixTime::from_secs(1_767_225_600);
const LIFE: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);

/// Makes a case.
type Make = fn() -> Case;

const CASES: [(&str, Make); 14] = [
    ("tick, nothing due", || Case::new(idle(), |_| Event::Tick)),
    ("tick that submits", || Case::new(due(), |_| Event::Tick)),
    ("template_changed", || {
        let template = Arc::new(Template::node("worker-1").with_dns_names(["worker-2"]));
        Case::new(idle(), move |_| Event::TemplateChanged(Some(template.clone())))
    }),
    ("signer_changed", || Case::new(idle(), |_| Event::SignerChanged(SignerStatus::NotReady))),
    ("policy_changed", || {
        let policy = Arc::new(Policy::kubelet());
        Case::new(idle(), move |_| Event::PolicyChanged(policy.clone()))
    }),
    ("csr_issued", || {
        let held = requesting();
        let certificate = held.certificate(2);
        Case::new(held, move |id| Event::CsrIssued { id, certificate: certificate.clone() })
    }),
    ("csr_failed", || {
        Case::new(requesting(), |id| Event::CsrFailed { id, failure: Failure::Unreachable, retry_after: None })
    }),
    ("cert_written", || Case::new(unwritten(), |id| Event::CertWritten { id })),
    ("write_failed", || Case::new(unwritten(), |id| Event::WriteFailed { id })),
    ("cert_replaced", || Case::new(idle(), |_| Event::CertReplaced(None))),
    ("cert_refused", || Case::new(idle(), |_| Event::CertRefused { fingerprint: fingerprint(1) })),
    ("rotate_now", || Case::new(idle(), |_| Event::RotateNow)),
    ("server_dated", || Case::new(idle(), |_| Event::ServerDated { unix: EPOCH })),
    ("late reply", || Case::new(idle(), |_| Event::CertWritten { id: RequestId::default() })),
];

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    match arguments.next().as_deref() {
        Some("rotation") => rotations(TIMES),
        Some("ticks") => ticks(TIMES),
        Some("--test") => trial(),
        Some(case) => run(case),
        None => report(),
    }
}

fn report() {
    let rotation = count("rotation");
    println!("{:18} {rotation:5} instructions, {:4.0} ns", "rotation", nanoseconds(rotations));
    println!("{:18} {:5} instructions, {:4.0} ns", "tick", count("ticks"), nanoseconds(ticks));
    for (name, case) in CASES {
        println!("{name:18} {:5} instructions, {:4.0} ns", count(name), event_nanoseconds(&case()));
    }
}

fn trial() {
    rotations(1);
    ticks(1);
    for (_, case) in CASES {
        let Case { mut held, event } = case();
        step(&mut held.machine, event(held.id), held.now);
    }
}

/// Runs a case in another process under callgrind, and returns the instructions of one repetition.
fn count(case: &str) -> u64 {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*instructions*::step*"]);
    let output = valgrind.arg(std::env::current_exe().unwrap()).arg(case).output();
    let output = output.expect("valgrind is installed");
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim());
    let collected: u64 = collected.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    collected / TIMES
}

/// The median time of one repetition.
fn nanoseconds(work: fn(u64)) -> f64 {
    let round = || {
        let begun = Instant::now();
        work(ROUND);
        begun.elapsed()
    };
    median(round).as_secs_f64() * 1e9 / ROUND as f64
}

/// The median time of one event, with machines and events that were made before.
fn event_nanoseconds(Case { held, event }: &Case) -> f64 {
    let round = || {
        let mut machines: Vec<_> = (0..TIMES).map(|_| held.machine.clone()).collect();
        let events: Vec<_> = (0..TIMES).map(|_| event(held.id)).collect();
        let begun = Instant::now();
        machines.iter_mut().zip(events).for_each(|(machine, event)| step(machine, event, held.now));
        begun.elapsed()
    };
    median(round).as_secs_f64() * 1e9 / TIMES as f64
}

/// The median time of nine rounds.
fn median(round: impl Fn() -> Duration) -> Duration {
    let mut rounds = [(); 9].map(|()| round());
    rounds.sort_unstable();
    rounds[4]
}

fn run(name: &str) {
    let (_, case) = CASES.iter().find(|(case, _)| *case == name).expect("a case of the list");
    let Case { held, event } = case();
    for _ in 0..TIMES {
        let mut machine = held.machine.clone();
        step(&mut machine, event(held.id), held.now);
    }
}

/// Ticks once a minute while nothing is due.
fn ticks(times: u64) {
    let Held { mut machine, mut now, .. } = idle();
    let start = now;
    for _ in 0..times {
        now = later(now, MINUTE);
        if now.unix > start.unix.after(LIFE / 2) {
            now = later(start, MINUTE);
        }
        step(&mut machine, Event::Tick, now);
    }
}

/// Rotates once a repetition: the Tick that submits, the certificate, the confirmed write.
fn rotations(times: u64) {
    let Held { mut machine, mut now, template, .. } = idle();
    for number in 0..times {
        now = later(now, LIFE * 9 / 10);
        step(&mut machine, Event::Tick, now);
        let State::Requesting { id, .. } = machine.state() else { panic!("{machine}") };
        let certificate = certificate(&template, number + 2, now.unix);
        step(&mut machine, Event::CsrIssued { id, certificate }, now);
        step(&mut machine, Event::CertWritten { id }, now);
    }
}

/// Passes an event to the machine and takes the actions, as a driver does.
#[inline(never)]
fn step(machine: &mut RotationMachine, event: Event, now: Now) {
    for action in machine.handle(event, now) {
        black_box::<Action>(action);
    }
}

/// An event, and the machine that handles it.
struct Case {
    held: Held,
    event: Box<dyn Fn(RequestId) -> Event>,
}

impl Case {
    fn new(held: Held, event: impl Fn(RequestId) -> Event + 'static) -> Self {
        Self { held, event: Box::new(event) }
    }
}

/// A machine, its clocks, and the id of its request or write.
struct Held {
    machine: RotationMachine,
    now: Now,
    id: RequestId,
    template: Arc<Template>,
}

impl Held {
    fn handle(&mut self, event: Event) {
        let _ = self.machine.handle(event, self.now);
    }

    fn certificate(&self, serial: u64) -> Arc<Certificate> {
        certificate(&self.template, serial, self.now.unix)
    }
}

/// A machine with a fresh certificate, for which nothing is due.
fn idle() -> Held {
    let template = Arc::new(Template::node("worker-1").with_dns_names(["worker-1"]));
    let (wanted, certificate) = (Some(template.clone()), Some(certificate(&template, 1, EPOCH)));
    let now = Now { unix: EPOCH, ..Now::default() };
    let machine = RotationMachine::new(Setup { template: wanted, certificate, ..Setup::default() }, now);
    let mut held = Held { machine, now, id: RequestId::default(), template };
    held.handle(Event::Tick);
    held
}

/// A machine that submits a request at the next Tick.
fn due() -> Held {
    let held = idle();
    Held { now: later(held.now, LIFE * 9 / 10), ..held }
}

/// A machine whose request is in flight.
fn requesting() -> Held {
    let mut held = due();
    held.handle(Event::Tick);
    let State::Requesting { id, .. } = held.machine.state() else { panic!("{}", held.machine) };
    Held { id, ..held }
}

/// A machine whose certificate is being written.
fn unwritten() -> Held {
    let mut held = requesting();
    held.handle(Event::CsrIssued { id: held.id, certificate: held.certificate(2) });
    held
}

fn certificate(template: &Arc<Template>, serial: u64, begin: UnixTime) -> Arc<Certificate> {
    let validity = Validity::new(begin, begin.after(LIFE)).unwrap();
    Arc::new(Certificate::for_template(template.clone(), validity, fingerprint(serial)))
}

fn fingerprint(serial: u64) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&serial.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Fingerprint(bytes)
}

fn later(now: Now, span: Duration) -> Now {
    Now { instant: now.instant.after(span), unix: now.unix.after(span) }
}
