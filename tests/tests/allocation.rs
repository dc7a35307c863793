//! `RotationMachine::handle` never allocates, nor does a `Fleet` once its members are there. A machine therefore works
//! where memory is short, and a million machines need no memory besides the machines themselves.

mod counting;

use std::sync::Arc;
use std::time::Duration;

use counting::{ALLOCATIONS, BYTES};
use perennial::{Action, Event, Failure, Fleet, Instant, Limits, MemberKey, Now, RotationMachine, Setup, Template};
use perennial_tests::mint;
use perennial_tests::script::Script;

/// The number of allocations of this thread during `work`.
fn allocations(work: impl FnOnce()) -> usize {
    let mut made = 0;
    counted(&mut made, work);
    made
}

#[test]
fn counting_allocator_counts_allocations() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
    assert_eq!(allocations(|| assert!(std::hint::black_box(true))), 0);
}

#[test]
fn machine_never_allocates_while_handling_an_event() {
    let mut seen = [0_usize; EVENTS];
    for life in 0..200 {
        let trace = long_life(life).run();
        for run in &trace.runs {
            let mut machine = run.first.clone();
            for record in &run.records {
                let event = record.event.clone();
                seen[kind(&event)] += 1;
                let made = allocations(|| drop(machine.handle(event, record.now)));
                assert_eq!(made, 0, "{} at {}", record.event, record.now);
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 100), "every event is seen often: {seen:?}");
}

#[test]
fn reading_or_cloning_a_machine_never_allocates() {
    let trace = long_life(1).run();
    for (now, machine) in trace.steps().map(|(_, record)| (record.now, &record.after)) {
        let made = allocations(|| read_everything(machine, now));
        assert_eq!(made, 0, "{machine}");
    }
}

/// The share of the planner in a member's memory: its deadline and its place in the heap and in the queue for turns.
const PLANNER: usize = 40;

#[test]
fn member_of_fleet_has_at_most_400_bytes() {
    const DAY: Duration = Duration::from_secs(86_400);

    let policy = Setup::default().policy;
    let now = Now { unix: mint::EPOCH, ..Now::default() };
    let member = |number: u32| {
        let template = Template::node(&format!("worker-{number:06}")).with_dns_names([format!("worker-{number:06}")]);
        let template = Arc::new(template);
        let certificate = mint::certificate(&template, number.into(), mint::EPOCH, DAY).sharing_names(&template);
        let (template, certificate) = (Some(template), Some(Arc::new(certificate)));
        let mut machine =
            RotationMachine::new(Setup { policy: policy.clone(), template, certificate, ..Setup::default() }, now);
        let _ = machine.handle(Event::Tick, now);
        machine
    };
    let before = BYTES.get();
    let machines: [_; 10] = std::array::from_fn(|number| member(u32::try_from(number).unwrap()));
    let heap = (BYTES.get() - before) / machines.len();
    let bytes = size_of::<RotationMachine>() + heap + PLANNER;
    assert!(bytes <= 400, "{bytes} = {} + {heap} + {PLANNER}", size_of::<RotationMachine>());
}

fn read_everything(machine: &RotationMachine, now: Now) {
    let pending = machine.pending(now);
    let seen = (machine.state(), machine.due(now), machine.deadline(), machine.certificate_at(now.unix), pending);
    drop(std::hint::black_box((seen, machine.clone())));
}

/// A year of rotations, with members whose request fails or is never answered.
#[test]
fn fleet_never_allocates_after_its_members_were_inserted() {
    let mut now = Now { instant: Instant::from_millis(0), unix: mint::EPOCH };
    let mut fleet = Fleet::new(Limits { in_flight: 3.try_into().unwrap(), ..Limits::default() });
    let template = Arc::new(Template::node("worker-1"));
    for seed in 0..50 {
        fleet.insert(Setup { seed, template: Some(template.clone()), ..Setup::default() }, now);
    }
    let (mut made, mut issued, mut serial) = (0, 0, 0);
    let mut replies: Vec<(MemberKey, Event)> = Vec::with_capacity(1000);
    let end = now.instant.after(Duration::from_secs(365 * 86_400));
    while now.instant < end {
        while let Some((key, actions)) = counted(&mut made, || fleet.tick(now)) {
            for action in actions {
                serial += 1;
                replies.extend(reply(action, serial, now).map(|event| (key, event)));
            }
        }
        if let Some((key, event)) = replies.pop() {
            issued += usize::from(matches!(event, Event::CsrIssued { .. }));
            for action in counted(&mut made, || fleet.handle(key, event, now)) {
                serial += 1;
                replies.extend(reply(action, serial, now).map(|event| (key, event)));
            }
        } else {
            let sleep = fleet.deadline().unwrap().since(now.instant);
            // The wall clock is stepped now and then.
            serial += 1;
            let step = Duration::from_secs(if serial % 1000 == 0 { 3600 } else { 0 });
            now = Now { instant: now.instant.after(sleep), unix: now.unix.after(sleep + step) };
        }
    }
    assert!(made == 0 && issued > 500, "{made} allocations, {issued} certificates");
}

/// The reply to an action: a certificate for a day, a failure or none.
fn reply(action: Action, serial: u64, now: Now) -> Option<Event> {
    match action {
        Action::SubmitCsr { id, .. } if serial.is_multiple_of(7) => {
            Some(Event::CsrFailed { id, failure: Failure::Unreachable, retry_after: None })
        }
        Action::SubmitCsr { .. } if serial.is_multiple_of(5) => None,
        Action::SubmitCsr { id, template, .. } => {
            let certificate = mint::certificate(&template, serial, now.unix, Duration::from_secs(86_400));
            Some(Event::CsrIssued { id, certificate: Arc::new(certificate) })
        }
        Action::WriteCert { id, .. } => Some(Event::CertWritten { id }),
        Action::CancelRequest { .. } | Action::SetTimer(_) => None,
    }
}

/// Does this work, and adds its allocations to `made`.
fn counted<T>(made: &mut usize, work: impl FnOnce() -> T) -> T {
    let before = ALLOCATIONS.get();
    let result = work();
    *made += ALLOCATIONS.get() - before;
    result
}

/// A script of about a hundred steps, decoded from pseudo-random bytes with the seed `number`.
fn long_life(number: u64) -> Script {
    let mut noise = number;
    let noise = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.to_be_bytes()[0]
    });
    Script::decode(&noise.take(400).collect::<Vec<_>>())
}

const EVENTS: usize = 14;

const fn kind(event: &Event) -> usize {
    match event {
        Event::Tick => 0,
        Event::TemplateChanged(_) => 1,
        Event::SignerChanged(_) => 2,
        Event::CsrIssued { .. } => 3,
        Event::CsrFailed { .. } => 4,
        Event::CertWritten { .. } => 5,
        Event::WriteFailed { .. } => 6,
        Event::CertReplaced(_) => 7,
        Event::CertRefused { .. } => 8,
        Event::RotateNow => 9,
        Event::ServerDated { .. } => 10,
        Event::PolicyChanged(_) => 11,
        Event::TurnGranted => 12,
        Event::RenewalHinted { .. } => 13,
        _ => EVENTS,
    }
}
