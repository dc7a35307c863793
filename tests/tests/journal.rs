//! Replays journals, from the start of a run or from any later step at which a new journal file begins.

use std::num::NonZeroU64;
use std::sync::Arc;

use perennial::{
    Event, Failure, Instant, Now, RequestId, RotationMachine, Setup, SignerStatus, State, Template, UnixTime,
};
use perennial_rotation::journal::{self, Replay, ReplayError};
use perennial_rotation::{News, Transition};
use perennial_tests::script::scripts;
use perennial_tests::trace::{Record, Run};
use proptest::prelude::*;

/// Converts a record of a run to a `Transition`, the form in which observers get a step.
fn seen(before: &RotationMachine, record: &Record) -> Transition {
    let Record { now, event, actions, after } = record.clone();
    Transition { now, event, actions, before: Arc::new(before.clone()), after: Arc::new(after) }
}

/// The journal of a run from its `from`th step on: the line that begins a journal, then a line for each step.
fn written(run: &Run, from: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (i, (before, record)) in run.steps().enumerate().skip(from) {
        if i == from {
            lines.push(journal::begin("node", record.now, before));
        }
        lines.push(journal::step("node", &seen(before, record)));
    }
    lines
}

/// An older perennial, which lacked some of today's events, wrote the replayed file: journals of random hostile
/// scripts. If a change of the format makes this file unreadable, the format needs a new version.
#[test]
fn journal_of_an_older_perennial_replays() {
    let mut replay = Replay::new();
    let mut steps = 0;
    for (i, line) in include_str!("journals/hostile_lives.jsonl").lines().enumerate() {
        let replayed = replay.line(line).unwrap_or_else(|error| panic!("line {}: {error}", i + 1));
        steps += u32::from(replayed.step().is_some());
    }
    assert!(steps > 100, "{steps}");
}

/// The tested line begins a journal of version 1, as earlier builds of 0.1.0 wrote it.
#[test]
fn journal_of_version_1_is_refused() {
    let line = r#"{"begin":{"version":1,"perennial":"0.1.0","of":"node","at":[0,0],"machine":{"live":null}}}"#;
    let error = Replay::new().line(line).unwrap_err();
    assert_eq!(error, ReplayError::Version(1));
    assert_eq!(
        error.to_string(),
        "the journal has format version 1, and this perennial reads version 2; replay the journal with the perennial \
         that wrote it"
    );
}

/// Rare names are URIs, organizational units and serial numbers. An older perennial refuses a journal with the field of
/// rare names, which it does not know. A journal without rare names therefore has no such field, so that an older
/// perennial can read the journal.
#[test]
fn journal_without_rare_names_has_no_field_for_them() {
    for (template, field) in [
        (Template::node("a"), None),
        (Template::node("a").with_uris(["spiffe://x/y"]), Some(r#""rareNames":{"uris":["spiffe://x/y"]}"#)),
        (
            Template::node("a").with_organizational_units(["u"]).with_serial_number("7"),
            Some(r#""rareNames":{"organizationalUnits":["u"],"serialNumber":"7"}"#),
        ),
    ] {
        let machine =
            RotationMachine::new(Setup { template: Some(Arc::new(template)), ..Setup::default() }, Now::default());
        let line = journal::begin("node", Now::default(), &machine);
        assert_eq!(line.contains("rareNames"), field.is_some(), "{line}");
        assert!(field.is_none_or(|field| line.contains(field)), "{line}");
        Replay::new().line(&line).unwrap();
    }
}

#[test]
fn journal_with_any_signer_status_replays() {
    let template = Some(Arc::new(Template::node("a")));
    let machine = RotationMachine::new(Setup { template, ..Setup::default() }, Now::default());
    let (mut lines, mut after) = (journal::begin("node", Now::default(), &machine), Arc::new(machine));
    for status in SignerStatus::ALL {
        let now = Now::default();
        let line = journal::step("node", &Transition::of(&mut after, Event::SignerChanged(status), now));
        assert!(line.contains(&format!(r#"{{"signerChanged":"{}"}}"#, status.name())), "{line}");
        lines += &line;
        // A new journal may begin with the machine in this state.
        lines += &journal::begin("node", now, &after);
    }
    let mut replay = Replay::new();
    for (i, line) in lines.lines().enumerate() {
        let replayed = replay.line(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(i == 0 || replayed.step().is_some() || replayed.continues(), "{line}");
    }
}

/// An older perennial rejects fields that it does not know, so a journal without shared signers has no such field.
#[test]
fn journal_has_field_for_queued_only_while_a_request_is_queued() {
    let template = Some(Arc::new(Template::node("a")));
    for signer in [SignerStatus::Ready, SignerStatus::Shared] {
        let setup = Setup { template: template.clone(), signer, ..Setup::default() };
        let mut machine = Arc::new(RotationMachine::new(setup, Now::default()));
        journal::step("node", &Transition::of(&mut machine, Event::Tick, Now::default()));
        let line = journal::begin("node", Now::default(), &machine);
        assert_eq!(line.contains(r#""queued":true"#), signer.is_shared(), "{line}");
        assert!(signer.is_shared() || !line.contains("queued"), "{line}");
        let mut replay = Replay::new();
        replay.line(&line).unwrap();
        let turn = Transition::of(&mut machine, Event::TurnGranted, Now::default());
        assert!(replay.line(&journal::step("node", &turn)).unwrap().step().is_some());
    }
}

proptest! {
    #[test]
    fn journal_replays_from_any_step_at_which_it_begins(script in scripts(24), from in 0_usize..40) {
        for run in script.run().runs {
            for from in [0, from] {
                let mut replay = Replay::new();
                for line in written(&run, from) {
                    let replayed = replay.line(&line);
                    prop_assert!(replayed.is_ok(), "{line}{}", replayed.unwrap_err());
                }
            }
        }
    }

    #[test]
    fn replay_shows_each_step_as_recorded(script in scripts(24), from in 0_usize..40) {
        for run in script.run().runs {
            let mut replay = Replay::new();
            let began = replay.line(&journal::begin("node", run.started, &run.first)).unwrap();
            prop_assert!(began.step().is_none() && !began.continues());
            for (i, (before, record)) in run.steps().enumerate() {
                let seen = seen(before, record);
                let replayed = replay.line(&journal::step("node", &seen)).unwrap();
                let again = replayed.step().unwrap();
                prop_assert_eq!((again.to_string(), again.failure()), (seen.to_string(), seen.failure()));
                prop_assert_eq!(again.news(), seen.news());
                prop_assert_eq!(replayed.is_uneventful(), seen.is_uneventful());
                // The file is full here, and the next one begins.
                if i == from {
                    prop_assert!(replay.line(&journal::begin("node", seen.now, &seen.after)).unwrap().continues());
                }
            }
        }
    }
}

proptest! {
    /// The test derives the expected failure of a step from the event and the request in flight. It does not use the
    /// machine's outcomes, from which the news are made.
    #[test]
    fn failed_step_has_exactly_one_failure_in_its_news(script in scripts(24)) {
        for (before, record) in script.run().runs.iter().flat_map(Run::steps) {
            let step = seen(before, record);
            let failed: Vec<Failure> = step.news().iter().filter_map(|news| match news {
                News::Failed { failure, .. } => Some(*failure),
                _ => None,
            }).collect();
            let in_flight = |machine: &RotationMachine| match machine.state() {
                State::Requesting { id, .. } => Some(id),
                _ => None,
            };
            let reported = match &record.event {
                Event::CsrFailed { id, failure, .. } if in_flight(before) == Some(*id) => Some(*failure),
                _ => None,
            };
            prop_assert!(failed.len() <= 1, "{step}: {failed:?}");
            prop_assert!(reported.is_none_or(|failure| failed == [failure]), "{step}: {failed:?}");
            // Only a request in flight can fail.
            prop_assert!(failed.is_empty() || in_flight(before).is_some(), "{step}: {failed:?}");
        }
    }
}

fn started_replay() -> (Replay, Arc<RotationMachine>, Now) {
    let now = Now { unix: UnixTime::from_secs(1_767_225_600), ..Now::default() };
    let template = Some(Arc::new(Template::node("worker-1")));
    let machine = RotationMachine::new(Setup { template, ..Setup::default() }, now);
    let mut replay = Replay::new();
    replay.line(&journal::begin("client", now, &machine)).unwrap();
    (replay, Arc::new(machine), now)
}

fn tick(machine: &mut Arc<RotationMachine>, now: Now) -> String {
    journal::step("client", &Transition::of(machine, Event::Tick, now))
}

#[test]
fn replay_reports_a_step_that_differs() {
    let (mut replay, mut machine, now) = started_replay();
    let line = tick(&mut machine, now).replace("new key", "pending key");
    let error = replay.line(&line).unwrap_err();
    assert!(matches!(&error, ReplayError::Differs { journal, again, .. } if journal.len() == again.len()), "{error}");
    assert!(error.to_string().contains("Tick: the journal has SubmitCsr #1 pending key"), "{error}");
}

#[test]
fn unusable_journal_line_is_refused_and_does_not_change_replay() {
    let (mut replay, mut machine, now) = started_replay();
    let line = tick(&mut machine, now);
    for cut in 0..line.len() - 1 {
        assert_eq!(replay.line(&line[..cut]).unwrap_err(), ReplayError::Cut, "at {cut}");
    }
    for (foreign, words) in [
        (line.replace("client", "server"), "no snapshot of server before this step"),
        (line.replace("tick", "tock"), "the line is not from a journal"),
        (
            journal::begin("client", now, &machine).replace("\"no_certificate\"", "\"no_reason\""),
            "`no_reason` is unknown",
        ),
        (journal::begin("client", now, &machine).replace("\"version\":2", "\"version\":9"), "version 9"),
    ] {
        let error = replay.line(&foreign).unwrap_err().to_string();
        assert!(error.contains(words), "{foreign}: {error}");
    }
    assert!(replay.line(&line).is_ok());
}

#[test]
fn transition_reports_each_failed_attempt_once() {
    let (_, mut machine, mut now) = started_replay();
    let id = |n| RequestId::new(NonZeroU64::new(n).unwrap());
    let mut failure_of = |event: Event, now: Now| {
        let step = Transition::of(&mut machine, event, now);
        (step.failure(), machine.deadline())
    };
    let failed = |n, failure| Event::CsrFailed { id: id(n), failure, retry_after: None };
    assert_eq!(failure_of(Event::Tick, now).0, None);
    assert_eq!(failure_of(failed(9, Failure::Denied), now).0, None, "no such request is in flight");
    let (failure, mut deadline) = failure_of(failed(1, Failure::Unreachable), now);
    assert_eq!(failure, Some(Failure::Unreachable));
    // The request is submitted again, and never answered.
    let mut seen = None;
    while seen.is_none() {
        now.instant = deadline.unwrap();
        (seen, deadline) = failure_of(Event::Tick, now);
    }
    assert_eq!(seen, Some(Failure::TimedOut));
    assert_eq!(now.instant.since(Instant::default()).as_secs() / 60, 15);
}
