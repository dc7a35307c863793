//! Measures fleets of a thousand to a million machines: memory, a Tick, a herd in which every member rotates at once, a
//! step of the wall clock, and an hour in which nothing is due. Clocks are virtual, CPU and memory are real. Each
//! member has a template and a certificate of its own: a common name, an organization and a DNS name. The members share
//! a policy.
//!
//! `cargo bench -p perennial-tests --bench fleet`

#![allow(unsafe_code, reason = "only a global allocator can see every allocation")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use perennial::{
    Action, Certificate, Event, Fingerprint, Fleet, Instant, Limits, MemberKey, Now, Planner, Policy, RotationMachine,
    Schedule, Setup, Template, UnixTime, Validity,
};
use perennial_tests::bench::sized;
use rustix::time::{ClockId, clock_gettime};

/// The bytes that are allocated now.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// A global allocator that counts the bytes that are allocated, without the allocator's own overhead.
struct Counting;

// SAFETY: every call is passed on as it came; counting touches nothing but an atomic integer.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(size, Ordering::Relaxed);
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const START: Now = Now { instant: Instant::from_millis(0), unix: UnixTime::from_secs(1_767_225_600) };
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The results for a fleet of one size. Spans are CPU times.
struct Measured {
    members: usize,
    bytes_each: usize,
    rss_each: usize,
    planner_bytes_each: usize,
    insert: Duration,
    tick: Duration,
    idle_hour: Duration,
    replan: Duration,
    rotation: Duration,
}

fn main() {
    println!("  members bytes_each rss_each planner   insert     tick   replan  rotation idle_hour");
    let mut last = None;
    for &members in sized(&[1_000, 10_000, 100_000, 1_000_000][..], &[100]) {
        let measured = measure(members);
        let each = |span: Duration| format!("{:.0} ns", span.as_secs_f64() * 1e9 / members as f64);
        let Measured { bytes_each, rss_each, planner_bytes_each, insert, tick, idle_hour, replan, rotation, .. } =
            measured;
        println!(
            "{members:9} {bytes_each:10} {rss_each:8} {planner_bytes_each:7} {:>8} {:>8} {:>8} {:>9} {:>7.4} s",
            each(insert),
            each(tick),
            each(replan),
            each(rotation),
            idle_hour.as_secs_f64()
        );
        last = Some(measured);
    }
    let Measured { members, bytes_each, rss_each, idle_hour, .. } = last.expect("there is a size");
    println!("rss: {rss_each} bytes each, {} MiB in all", (members * rss_each) >> 20);
    println!("fleet members: {members} bytes_each: {bytes_each} idle_hour_cpu_s: {:.2}", idle_hour.as_secs_f64());
}

fn measure(members: usize) -> Measured {
    let planner_bytes_each = planner_bytes(members) / members;
    let (allocated, before) = (ALLOCATED.load(Ordering::Relaxed), resident());
    let mut fleet = Fleet::new(Limits::default());
    fleet.reserve(members);
    let began = cpu();
    let policy = Arc::default();
    (0..members).for_each(|number| _ = fleet.insert(member(number, &policy), START));
    let insert = cpu() - began;
    let mut now = START;
    let mut acted = 0;
    let tick = timed(|| acted = drain(&mut fleet, now));
    assert_eq!(acted, members, "every member has its first Tick");

    let bytes_each = (ALLOCATED.load(Ordering::Relaxed) - allocated) / members;
    let rss_each = resident().saturating_sub(before) / members;

    let idle_hour = timed(|| acted = idle(&mut fleet, &mut now, HOUR));
    assert_eq!(acted, 0, "nothing is due");

    // The wall clock is set ahead by ten minutes: every member plans anew.
    now.unix = now.unix.after(HOUR / 6);
    let replan = timed(|| acted = drain(&mut fleet, now));
    assert_eq!(acted, members, "every member plans anew");

    // A program demands the rotation of every certificate.
    let mut rotated = 0;
    let rotation = timed(|| rotated = herd(&mut fleet, &mut now));
    assert_eq!(rotated, members, "every member rotates");
    Measured { members, bytes_each, rss_each, planner_bytes_each, insert, tick, idle_hour, replan, rotation }
}

/// A member with its own identity, and a certificate for a year.
fn member(number: usize, policy: &Arc<Policy>) -> Setup {
    let name = format!("system:node:worker-{number:07}");
    let template = Template::new(&name)
        .with_organizations(["system:nodes"])
        .with_dns_names([format!("worker-{number:07}.example.com")]);
    let template = Arc::new(template);
    let certificate = Arc::new(certificate(&template, number, START.unix));
    Setup {
        policy: policy.clone(),
        seed: perennial::seed("example.com/signer", &name),
        template: Some(template),
        certificate: Some(certificate),
        ..Setup::default()
    }
}

fn certificate(template: &Arc<Template>, number: usize, from: UnixTime) -> Certificate {
    let mut fingerprint = [0; 32];
    fingerprint[..8].copy_from_slice(&perennial::mix(number as u64, from.as_millis() as u64, 0).to_be_bytes());
    let validity = Validity::new(from, from.after(YEAR)).expect("a year");
    Certificate::for_template(template.clone(), validity, Fingerprint(fingerprint))
}

/// Lets each member act whose turn it is. Returns the number of turns.
fn drain(fleet: &mut Fleet, now: Now) -> usize {
    std::iter::from_fn(|| fleet.tick(now)).map(black_box).count()
}

/// Sleeps from deadline to deadline for this span. Returns the number of turns.
fn idle(fleet: &mut Fleet, now: &mut Now, span: Duration) -> usize {
    let end = now.instant.after(span);
    let mut acted = 0;
    while let Some(at) = fleet.deadline().filter(|at| *at <= end) {
        let slept = at.since(now.instant);
        *now = Now { instant: at, unix: now.unix.after(slept) };
        acted += drain(fleet, *now);
    }
    acted
}

/// Demands the rotation of every certificate, and answers each request after a second. Returns the number of
/// certificates that were issued and written.
fn herd(fleet: &mut Fleet, now: &mut Now) -> usize {
    let keys: Vec<MemberKey> = fleet.planner().keys().collect();
    for key in keys {
        let _ = fleet.handle(key, Event::RotateNow, *now);
    }
    let (mut requests, mut rotated) = (Vec::new(), 0);
    loop {
        while let Some((key, actions)) = fleet.tick(*now) {
            requests.extend(actions.filter_map(|action| match action {
                Action::SubmitCsr { id, template, .. } => Some((key, id, template)),
                _ => None,
            }));
        }
        if requests.is_empty() {
            return rotated;
        }
        *now = Now { instant: now.instant.after(Duration::from_secs(1)), unix: now.unix.after(Duration::from_secs(1)) };
        for (key, id, template) in requests.drain(..) {
            let certificate = Arc::new(certificate(&template, rotated, now.unix));
            let write = fleet.handle(key, Event::CsrIssued { id, certificate }, *now);
            for action in write {
                if let Action::WriteCert { id, .. } = action {
                    let _ = fleet.handle(key, Event::CertWritten { id }, *now);
                    rotated += 1;
                }
            }
        }
    }
}

/// The bytes of a planner alone, for this many machines that wait for a deadline and for a turn.
fn planner_bytes(members: usize) -> usize {
    let before = ALLOCATED.load(Ordering::Relaxed);
    let mut planner = Planner::default();
    planner.reserve(members);
    let schedule = Schedule { deadline: Some(Instant::MAX), queued: Some(Instant::MAX), in_flight: None };
    (0..members).for_each(|_| _ = planner.insert(schedule, START));
    assert_eq!(planner.len() as usize, members);
    ALLOCATED.load(Ordering::Relaxed) - before
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = cpu();
    work();
    cpu() - began
}

/// The CPU time of this process so far.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The resident memory of this process in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line for the resident memory");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number of kilobytes") * 1024
}

const _: () = assert!(size_of::<RotationMachine>() == size_of::<Option<RotationMachine>>());
