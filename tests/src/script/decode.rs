//! Decodes bytes into a hostile life.

use std::time::Duration;

use perennial::{Backoff, Budget, Failure, Instant, Policy, SignerStatus, Template, UnixTime, Window};
use proptest::prelude::*;

use super::{HintKind, Life, LifeStep, Script, node};
use crate::simulation::world::{Answer, DiskHabit, Flaw, Issue, Outcome};

const HEADER: usize = 16;
const STEP: usize = 4;
/// The most steps of a life: longer lives find no more faults.
const LONGEST: usize = 128;

impl Script {
    /// Decodes a hostile life. Missing bytes count as zero, and bytes after the 128th step are ignored.
    pub fn decode(bytes: &[u8]) -> Self {
        let (header, steps) = bytes.split_at(bytes.len().min(HEADER));
        let life = life(&padded(header));
        let steps = steps.chunks(STEP).take(LONGEST).map(|chunk| step(&padded(chunk), &life)).collect();
        Self { life, steps }
    }
}

/// A strategy for the bytes of a life of fewer than `steps` steps. Shrinking removes whole steps first.
pub fn bytes(steps: usize) -> impl Strategy<Value = Vec<u8>> {
    (any::<[u8; HEADER]>(), prop::collection::vec(any::<[u8; STEP]>(), 0..steps))
        .prop_map(|(header, steps)| [&header[..], steps.as_flattened()].concat())
}

fn life(bytes: &[u8; HEADER]) -> Life {
    let [kind, seed, life, certificate, template, drift, wild, beat, numbers @ ..] = *bytes;
    let policy = match kind % 4 {
        0 => quick(beat, &numbers),
        1 => Policy::default(),
        2 => Policy::kubelet(),
        _ => Policy { new_key_per_attempt: true, ..quick(beat, &numbers) },
    };
    let lives = [(8, 1), (1, 1), (2, 1), (64, 1), (1, 2), (1, 8), (1000, 1), (3, 2)];
    let (times, over) = lives[usize::from(life) % lives.len()];
    Life {
        lifetime: (policy.shortest_lifetime() * times / over).max(Duration::from_millis(2)),
        policy,
        seed: u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        certificate: match certificate % 8 {
            0..3 => None,
            kind => Some(flaw(kind)),
        },
        template: template_of(template),
        drift: [0, 0, 0, 1, -1, 100, -100, 0][usize::from(drift) % 8],
        wild: wild >= 240,
    }
}

/// A policy made from one duration, the beat, which `beat` selects between 8 ms and 2 min. Each duration of the policy
/// is the beat times a power of two between 1/128 and 128.
fn quick(beat: u8, numbers: &[u8; 8]) -> Policy {
    let beat = Duration::from_millis(8 << (beat % 15));
    let [timeout, spacing, refill, size, transient, refused, write, window] = *numbers;
    let times = |byte: u8| (beat * (1 << (byte & 7)) / 8).max(Duration::from_millis(1));
    let backoff = |byte: u8| {
        let (from, to) = [(0, 1000), (500, 1000), (1000, 1100), (1000, 1000)][usize::from(byte >> 6)];
        let spread = Window::new(from, to).expect("in order");
        let backoff = Backoff::new(times(byte), times(byte) * (1 << (byte >> 3 & 3)), spread).expect("a power above");
        if byte & 32 == 0 { backoff } else { backoff.with_beat() }
    };
    let (from, to) = [(700, 900), (500, 500), (100, 900), (850, 900)][usize::from(window) % 4];
    Policy {
        window: Window::new(from, to).expect("in order"),
        request_timeout: times(timeout) * 2,
        // Journals keep whole milliseconds.
        spacing: Duration::from_millis(u64::try_from(times(spacing).as_millis() / 16).unwrap_or(u64::MAX)),
        budget: Budget::new(2 + u32::from(size % 9), times(refill)).expect("large enough"),
        transient: backoff(transient),
        refused: backoff(refused),
        write: backoff(write),
        max_sleep: beat,
        new_key_per_attempt: false,
    }
}

fn step(bytes: &[u8; STEP], life: &Life) -> LifeStep {
    let [kind, a, b, c] = *bytes;
    match kind % 32 {
        0..8 => LifeStep::Run(usize::from(a % 32) + 1),
        9 if b >= 160 => LifeStep::Policy(Box::new(policy(a, c, life))),
        8..10 => LifeStep::Pass(span(a, life)),
        10 if a >= 64 => server_clock(a, b, life),
        10 => LifeStep::Tick,
        11..14 => LifeStep::Answer(answer(a, b, c, life)),
        14 | 15 => LifeStep::Habit(answer(a, b, c, life)),
        16 => LifeStep::Disk(
            [DiskHabit::Works, DiskHabit::Full, DiskHabit::Silent][usize::from(a) % 3],
            span(b / 2, life),
        ),
        17..20 => LifeStep::Template(template_of(a)),
        20 if a >= 128 => LifeStep::Turn,
        20 => LifeStep::RotateNow,
        21 => LifeStep::Signer(signer(a)),
        22 => [LifeStep::Removed, LifeStep::Restored][usize::from(a) % 2].clone(),
        23 | 24 => LifeStep::Replaced(issue(a, b, life)),
        25 => LifeStep::Refused(a < 192),
        26 => {
            LifeStep::WallClock(i64::try_from(span(a, life).as_millis()).unwrap_or(0) * if b & 1 == 0 { 1 } else { -1 })
        }
        27 => LifeStep::Restart,
        28 | 29 => LifeStep::RepeatReply(usize::from(a % 8)),
        30 if a >= 64 => LifeStep::Hint(hint(a, b, c)),
        30 => LifeStep::ForeignReply,
        _ if life.wild && a & 4 == 0 => LifeStep::JumpMonotonic(Instant::from_millis(anywhere(a, b, c))),
        // Shifts `anywhere`, which prefers the ends of `u64`, to the ends of `i64`.
        _ if life.wild => {
            LifeStep::JumpWallClock(UnixTime::from_millis(anywhere(a, b, c).wrapping_add(1 << 63).cast_signed()))
        }
        _ => [LifeStep::SaveRecords(true), LifeStep::SaveRecords(false), LifeStep::LoseRecord][usize::from(a) % 3]
            .clone(),
    }
}

/// A policy to change to: the first one of the life, or another one.
fn policy(a: u8, c: u8, life: &Life) -> Policy {
    match a % 8 {
        0 | 1 => life.policy.clone(),
        2 => Policy::default(),
        3 => Policy { new_key_per_attempt: a >= 128, ..Policy::kubelet() },
        4 => Policy::for_lifetime(Duration::from_millis(1 << (c % 24))),
        _ => {
            quick(a / 8, &[c, a, c.rotate_left(3), a.rotate_left(5), c ^ a, c.rotate_left(6), a.rotate_left(2), c / 2])
        }
    }
}

/// A status of the signer: more often ready or absent than not ready or shared.
const fn signer(a: u8) -> SignerStatus {
    match a % 8 {
        0 | 2 | 4 => SignerStatus::Ready,
        5 => SignerStatus::Shared,
        6 | 7 => SignerStatus::NotReady,
        _ => SignerStatus::Absent,
    }
}

/// Zero, a few milliseconds, or about the policy's longest time between two checks of the clocks, multiplied by a power
/// of two between 1/32 and 1024.
fn span(byte: u8, life: &Life) -> Duration {
    let beat = life.policy.max_sleep.max(Duration::from_millis(1));
    match byte {
        0 => Duration::ZERO,
        1..8 => Duration::from_millis(byte.into()),
        _ => beat * (1 << (byte % 16)) / 32 + Duration::from_millis((byte / 16).into()),
    }
}

/// Readings of the API server's clock: right, or ahead or behind by as much as the wall clock may be stepped in such a
/// life.
fn server_clock(a: u8, b: u8, life: &Life) -> LifeStep {
    let span = i64::try_from(span(a, life).as_millis()).unwrap_or(0).saturating_add(i64::from(a % 4) * 4_000);
    let ahead = [span, -span, 0, span][usize::from(b) % 4];
    LifeStep::ServerClock(ahead, 1 + usize::from(b / 4 % 4))
}

/// A hint about a time from a quarter of the lifetime before notBefore to a quarter after notAfter.
fn hint(a: u8, b: u8, c: u8) -> HintKind {
    let at = |byte: u8| i16::from(byte) * 6 - 250;
    HintKind { is_known: a & 7 != 0, from: at(b), until: (a & 8 != 0).then(|| at(c)) }
}

fn answer(a: u8, b: u8, c: u8, life: &Life) -> Answer {
    let outcome = match a % 8 {
        0..3 => Outcome::Issue(issue(b, c, life)),
        3 => Outcome::Lose,
        _ => Outcome::Fail(FAILURES[usize::from(b) % FAILURES.len()], (c & 3 == 3).then(|| span(c, life))),
    };
    Answer { outcome, delay: span(c / 2, life), repeated: a >= 224 }
}

const FAILURES: [Failure; 15] = [
    Failure::Unreachable,
    Failure::Denied,
    Failure::Throttled,
    Failure::SignerFailed,
    Failure::Rejected,
    Failure::BadCertificate,
    Failure::Unsatisfying,
    Failure::AlreadyDue,
    Failure::Unauthorized,
    Failure::Forbidden,
    Failure::TimedOut,
    Failure::Deleted,
    Failure::Local,
    Failure::Outdated,
    Failure::UnsupportedKey,
];

fn issue(a: u8, b: u8, life: &Life) -> Issue {
    let lifetime = match b / 64 {
        0 => life.lifetime,
        1 => life.lifetime * 2,
        2 => life.lifetime / 4,
        _ => Duration::from_millis(u64::from(b % 64)),
    };
    Issue { life: lifetime, backdate: if a & 8 == 0 { Duration::ZERO } else { lifetime / 2 }, flaw: flaw(a % 8) }
}

const fn flaw(kind: u8) -> Flaw {
    match kind {
        1 => Flaw::Trimmed,
        5 => Flaw::Foreign,
        2 => Flaw::AlreadyDue,
        4 => Flaw::Early,
        6 => Flaw::Expired,
        7 => Flaw::Provisional,
        _ => Flaw::None,
    }
}

fn template_of(kind: u8) -> Option<Template> {
    match kind % 8 {
        0 => Some(node()),
        1 => None,
        2 => Some(node().with_dns_names(["a.example"])),
        3 => Some(node().with_dns_names(["a.example", "b.example"])),
        4 => Some(node().with_ip_addresses([[192, 0, 2, 1].into()])),
        5 => Some(Template::node("worker-2")),
        7 => Some(node().with_uris(["spiffe://a.example/worker"]).with_serial_number("A-17")),
        _ => Some(Template::new(node().common_name())),
    }
}

const fn anywhere(a: u8, b: u8, c: u8) -> u64 {
    match a % 4 {
        0 => u64::MAX - b as u64,
        1 => b as u64,
        2 => (b as u64) << (c % 64),
        _ => u64::MAX / (1 + b as u64),
    }
}

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0))
}
