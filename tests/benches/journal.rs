//! Measures a journal: the time to write the line of a step, the time to replay a line, and the bytes that a
//! certificate adds in a day: `cargo bench -p perennial-tests --bench journal`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Certificate, Event, Fingerprint, Now, RotationMachine, Setup, State, Template, UnixTime, Validity};
use perennial_rotation::Transition;
use perennial_rotation::journal::{self, Replay};
use perennial_tests::bench::{median_time, sized};

const NAME: &str = "kubelet-client";
const EPOCH: UnixTime = UnixTime::from_secs(1_767_225_600);
const DAY: Duration = Duration::from_secs(86_400);

fn main() {
    let (first, steps) = day();
    let lines: Vec<String> = steps.iter().map(|step| journal::step(NAME, step)).collect();
    println!("begin: {} bytes, {:.1?}", journal::begin(NAME, start(), &first).len(), begin(&first));
    for (what, at) in [("tick", 4), ("tick that submits", 3), ("csr_issued", 2), ("cert_written", 1)] {
        let step = &steps[steps.len() - at];
        let took = time(1, || drop(black_box(journal::step(NAME, step))));
        println!("{what}: {} bytes, {took:.1?}", journal::step(NAME, step).len());
    }
    let count = u32::try_from(lines.len()).unwrap();
    let bytes: usize = lines.iter().map(String::len).sum();
    let write = time(count, || steps.iter().for_each(|step| drop(black_box(journal::step(NAME, step)))));
    let replay = time(count, || {
        let mut replay = Replay::new();
        replay.line(&journal::begin(NAME, start(), &first)).unwrap();
        lines.iter().for_each(|line| drop(black_box(replay.line(line).unwrap())));
    });
    println!(
        "a day with one rotation: {count} lines, {bytes} bytes; a line written in {write:.1?}, replayed in {replay:.1?}"
    );
}

fn begin(machine: &RotationMachine) -> Duration {
    time(1, || drop(black_box(journal::begin(NAME, start(), machine))))
}

/// The steps of a machine from a fresh certificate of a day to the next one, and the machine before them.
fn day() -> (RotationMachine, Vec<Transition>) {
    let template = Arc::new(Template::node("worker-1").with_dns_names(["worker-1.example.com"]));
    let certificate = |serial: u8, from: UnixTime| {
        let validity = Validity::new(from, from.after(DAY)).unwrap();
        Arc::new(Certificate::for_template(template.clone(), validity, Fingerprint([serial; 32])))
    };
    let setup =
        Setup { template: Some(template.clone()), certificate: Some(certificate(1, EPOCH)), ..Setup::default() };
    let first = RotationMachine::new(setup, start());
    let (mut machine, mut now, mut steps) = (Arc::new(first.clone()), start(), Vec::new());
    loop {
        steps.push(Transition::of(&mut machine, Event::Tick, now));
        if let State::Requesting { id, .. } = machine.state() {
            let issued = Event::CsrIssued { id, certificate: certificate(2, now.unix) };
            steps.push(Transition::of(&mut machine, issued, now));
            steps.push(Transition::of(&mut machine, Event::CertWritten { id }, now));
            return (first, steps);
        }
        let slept = machine.deadline().unwrap().since(now.instant);
        now = Now { instant: now.instant.after(slept), unix: now.unix.after(slept) };
    }
}

fn start() -> Now {
    Now { unix: EPOCH, ..Now::default() }
}

/// The median time of a call, divided by `parts`.
fn time(parts: u32, work: impl FnMut()) -> Duration {
    median_time(sized(2_000 / parts, 0) + 1, work) / parts
}
