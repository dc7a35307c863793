//! Runs the same scenario against a server on each runtime. The transcripts must be equal.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use perennial::{Action, Event, State, Template};
use perennial_dev::faults::Plan;
use perennial_dev::{Approval, Decision};
use perennial_examples::tokio_loop;
use perennial_rotation::{News, Transition};
use perennial_tests::loopback::{BOUND, NodeNotices, Runtime, issued, node, serve, steady, waits_for_approval};

const RUNTIMES: [Runtime; 5] = [
    Runtime::Std,
    Runtime::Smol,
    Runtime::Other(|task| tokio_loop::block_on(task).unwrap()),
    Runtime::StdFleet,
    Runtime::SmolFleet,
];

/// Runs the scenario `life` on each runtime. The runtimes run in parallel, since a scenario waits most of the time.
fn lives(life: fn(Runtime) -> Vec<String>) -> [Vec<String>; 5] {
    RUNTIMES.map(|runtime| thread::spawn(move || life(runtime))).map(|life| life.join().unwrap())
}

/// The events and actions of a machine, one per line. A turn that a fleet grants is no event of the life. The lines
/// contain no times, and a number instead of each fingerprint.
#[derive(Default)]
struct Transcript {
    lines: Vec<String>,
    certificates: BTreeMap<String, usize>,
}

impl Transcript {
    /// Adds the lines for every step of a rotation, until the rotation ends.
    fn note_all(&mut self, mut notices: NodeNotices) {
        while let Some(notice) = notices.recv() {
            if let News::Stepped(step) = &notice.news {
                self.note(step);
            }
        }
    }

    fn note(&mut self, step: &Transition) {
        // Ticks and timers differ between loops, and so does whether a moment passes before an action.
        let line = Some(&step.event).filter(|event| !is_about_time(event)).map(ToString::to_string);
        let duties = step.actions.clone().filter(|action| !matches!(action, Action::SetTimer(_)));
        for line in line.into_iter().chain(duties.map(|duty| duty.to_string())) {
            let words: Vec<String> = line.split(' ').map(|word| self.timeless(word)).collect();
            self.lines.push(words.join(" "));
        }
    }

    fn timeless(&mut self, word: &str) -> String {
        let is_time = word.ends_with('Z') && word.starts_with(|c: char| c.is_ascii_digit());
        let is_certificate = word.len() == 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_certificate {
            let next = self.certificates.len() + 1;
            format!("certificate {}", self.certificates.entry(word.into()).or_insert(next))
        } else if is_time {
            "then".into()
        } else {
            word.into()
        }
    }
}

/// Runs a scenario and returns its transcript: an approval, a denial, another template, no template, a restart. Each
/// wait is for a state that lasts, so that no runtime can miss the state.
fn life(runtime: Runtime) -> Vec<String> {
    let mut transcript = Transcript::default();
    let directory = tempfile::tempdir().unwrap();
    let server = serve(Approval::Manual);
    let (handle, notices) = node(runtime, &server.cluster).stored_in(directory.path()).start_with_notices();
    waits_for_approval(&handle);
    server.decide_all(Decision::Approve);
    issued(&handle, 1);

    handle.rotate_now();
    waits_for_approval(&handle);
    server.decide_all(Decision::Deny);
    handle.wait_for(|now| matches!(now.state, State::BackingOff { .. })).within(BOUND).unwrap();

    // The denial was of another template, so the new template is requested at once.
    handle.set_template(Some(Template::node("worker-2"))).unwrap();
    waits_for_approval(&handle);
    handle.set_template(None).unwrap();
    handle.wait_for(|now| now.state == State::NoTemplate).within(BOUND).unwrap();
    handle.set_template(Some(Template::node("worker-1"))).unwrap();
    waits_for_approval(&handle);
    handle.shutdown().wait();
    transcript.note_all(notices);

    let (handle, notices) = node(runtime, &server.cluster).stored_in(directory.path()).start_with_notices();
    waits_for_approval(&handle);
    // Only now: an earlier call could take effect before or after the first step, which submits the request of the
    // record.
    handle.rotate_now();
    server.decide_all(Decision::Approve);
    issued(&handle, 1);
    handle.shutdown().wait();
    transcript.note_all(notices);
    transcript.lines
}

#[test]
fn runtimes_produce_the_same_transcript() {
    let [threads, others @ ..] = lives(life);
    assert!(threads.len() > 16, "{threads:#?}");
    others.iter().for_each(|other| assert_eq!(threads, *other));
}

/// The faults in the order in which they apply, each to as many HTTP requests as `times`. A submission fails under each
/// fault but the last; the submission that meets the last fault still gets its certificate.
const FAULTS: &str = "
rules:
- { match: { method: POST }, times: 1, fault: { answer: { status: 429, retryAfter: 1 } } }
- { match: { method: POST }, times: 1, fault: { object: denied } }
- { match: { method: POST }, times: 1, fault: { certificate: otherKey } }
- { match: { method: POST }, times: 1, fault: { answer: { status: 500 } } }
- { match: { method: POST }, times: 3, fault: { reset: beforeHead } }
- { match: { method: GET }, times: 1, fault: { cut: inBody } }
";

/// Runs a scenario under [`FAULTS`] until the second certificate is issued, and returns its transcript. Waits only for
/// certificates, which no runtime can miss.
fn life_with_faults(runtime: Runtime) -> Vec<String> {
    let server = serve(Approval::Auto);
    server.handle.with_api(|api, now| api.set_faults(Plan::parse(FAULTS).unwrap(), now));
    let mut node = node(runtime, &server.cluster);
    node.policy.refused = steady(Duration::from_millis(100));
    let (handle, notices) = node.start_with_notices();
    issued(&handle, 1);
    handle.rotate_now();
    issued(&handle, 2);
    handle.shutdown().wait();
    let mut transcript = Transcript::default();
    transcript.note_all(notices);
    transcript.lines
}

#[test]
fn runtimes_produce_the_same_transcript_under_faults() {
    let [threads, others @ ..] = lives(life_with_faults);
    others.iter().for_each(|other| assert_eq!(threads, *other));
    let failed = |line: &String| line.split_once("CsrFailed ").map(|(_, what)| what.to_owned());
    let failures: Vec<String> = threads.iter().filter_map(failed).collect();
    let expected =
        ["#1 throttled retry after 1s", "#2 denied", "#3 bad_certificate", "#4 unreachable", "#5 unreachable"];
    assert_eq!(failures, expected, "{threads:#?}");
}

/// True for an event about time alone. The number of Ticks, and of responses with a `Date`, depends on chance.
const fn is_about_time(event: &Event) -> bool {
    matches!(event, Event::Tick | Event::TurnGranted | Event::ServerDated { .. })
}
