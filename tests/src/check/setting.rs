//! Small worlds for the model checker: policies whose durations are a few milliseconds, and the moves to try.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use perennial::{Backoff, Budget, Certificate, Failure, Now, Policy, SignerStatus, Template, UnixTime, Window};

use crate::mint;

/// A small world for the model checker: a policy whose durations are a few milliseconds, and the moves to try. A step
/// of one millisecond skips no moment, since the machine counts time in whole milliseconds.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The name of the world, such as `restarts`.
    pub name: &'static str,
    /// The first policy. It has no jitter: with jitter, each request would have other wait times, and there would be
    /// many more states.
    pub policy: Arc<Policy>,
    /// The policy that [`Move::Policy`] changes to. Equal to `policy` in worlds without that move.
    pub other: Arc<Policy>,
    /// The lifetime of a healthy certificate.
    pub life: Duration,
    /// The moves to try in each state. [`Move::Pass`], [`Move::Alarm`] and [`Move::Tick`] are among them in every
    /// world.
    pub moves: Vec<Move>,
    /// A limit on the number of states. Once the search has found this number, it completes the layer and stops.
    pub most: usize,
}

/// A move of the model checker: an event, or a change outside the machine. A move is possible only in states in which
/// it makes sense. For example, a reply is possible only while a request is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// A millisecond passes, without an event.
    Pass,
    /// Time passes until the machine's deadline, and a Tick comes.
    Alarm,
    /// A Tick comes now, be it before, at or after the machine's deadline.
    Tick,
    /// The computer sleeps for this many milliseconds, and no Tick comes meanwhile.
    Sleep(u64),
    /// The wall clock is set 5 ms ahead of the true time, or back to the true time.
    WallClock,
    /// A response of the API server shows that the server's clock is this many milliseconds ahead of the true time.
    ServerDated(u64),
    /// The template changes to this one; `None`: the template is removed.
    Template(Option<TemplateChoice>),
    /// The signer changes to this status: ready, not ready (no identity to authenticate with) or absent.
    Signer(SignerStatus),
    /// The policy changes to [`Setting::other`], or back.
    Policy,
    /// A rotation is requested.
    RotateNow,
    /// The signer gives a hint about the newest certificate: a time this many milliseconds after its notBefore, or
    /// (`None`) after its notAfter.
    Hint(Option<u64>),
    /// A server refuses the served certificate.
    Refused,
    /// The signer issues a certificate of this kind for the request in flight.
    Issue(Flavour),
    /// The request in flight fails, with a `Retry-After` of this many milliseconds (`None`: without one).
    Fail(Failure, Option<u64>),
    /// The write that is under way succeeded.
    Written,
    /// The write that is under way failed.
    WriteFailed,
    /// Another program puts a certificate of this kind into the store, or (`None`) removes the certificate there.
    Found(Option<Flavour>),
    /// Another program puts the served certificate into the store.
    FoundOurs,
    /// The process restarts from the durable certificates and its last pending record.
    Restart,
    /// The process restarts without its pending record.
    RestartBlank,
    /// The process restarts with the pending record from before the last request, or with none if there was none then.
    /// So it is as if the write of the newest record had failed.
    RestartStale,
    /// The wall clock is set 5 ms ahead of the true time. Then the process restarts with its last pending record.
    RestartAhead,
}

/// One of three templates: the second has an additional IP address, and the third has another common name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateChoice {
    /// Only a common name.
    Plain,
    /// The common name of [`Plain`](Self::Plain) and an IP address.
    More,
    /// Only a common name, another than that of [`Plain`](Self::Plain).
    Other,
}

/// The kind of a certificate, good or bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// With the requested names and the lifetime of the setting.
    Good,
    /// As requested, but valid for only two milliseconds.
    Short,
    /// Without one of the requested names.
    Trimmed,
    /// With another common name than the requested one.
    Foreign,
    /// Past its rotation point, but valid.
    Due,
    /// A bootstrap credential.
    Provisional,
    /// Not valid any more.
    Expired,
    /// Not valid yet.
    Early,
}

/// How far ahead of the true time the wall clock may be set.
pub(super) const AHEAD: Duration = Duration::from_millis(5);

/// A Tick comes at most this many milliseconds after the deadline, except after [`Move::Sleep`].
pub(super) const LATE: u64 = 1;

/// The templates, in the order of [`TemplateChoice`].
pub(super) static TEMPLATES: LazyLock<[Arc<Template>; 3]> = LazyLock::new(|| {
    let more = Template::new("a").with_ip_addresses([[192, 0, 2, 1].into()]);
    [Template::new("a"), more, Template::new("b")].map(Arc::new)
});

impl Setting {
    /// The two policies of the setting: `policy` and `other`.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        [&self.policy, &self.other].into_iter()
    }

    /// A certificate of this flavour for `template`, issued at `now`.
    pub(super) fn mint(&self, template: &Template, flavour: Flavour, serial: u64, now: Now) -> Arc<Certificate> {
        let (life, unix) = (self.life, now.unix);
        let begins: UnixTime = match flavour {
            Flavour::Due => unix.before(life * 3 / 4),
            Flavour::Expired => unix.before(life + Duration::from_millis(1)),
            Flavour::Early => unix.after(Duration::from_millis(2)),
            Flavour::Good | Flavour::Short | Flavour::Trimmed | Flavour::Foreign | Flavour::Provisional => unix,
        };
        let life = if flavour == Flavour::Short { Duration::from_millis(2) } else { life };
        let certificate = mint::certificate(template, serial, begins, life);
        Arc::new(match flavour {
            Flavour::Trimmed => mint::trimmed(certificate),
            Flavour::Foreign => mint::foreign(certificate),
            Flavour::Provisional => mint::provisional(certificate),
            _ => certificate,
        })
    }
}

/// Moves in which the request in flight fails: one for each [`Failure`] without a `Retry-After`, and two more with a
/// `Retry-After`.
static EVERY_FAILURE: LazyLock<Vec<Move>> = LazyLock::new(|| {
    let patient = [Move::Fail(Failure::Throttled, Some(2)), Move::Fail(Failure::Denied, Some(100))];
    Failure::ALL.into_iter().map(|failure| Move::Fail(failure, None)).chain(patient).collect()
});

const TIME: [Move; 3] = [Move::Pass, Move::Alarm, Move::Tick];
const TEMPLATE_CHANGES: [Move; 4] = [
    Move::Template(Some(TemplateChoice::Plain)),
    Move::Template(Some(TemplateChoice::More)),
    Move::Template(Some(TemplateChoice::Other)),
    Move::Template(None),
];
const SIGNERS: [Move; 3] =
    [Move::Signer(SignerStatus::Ready), Move::Signer(SignerStatus::NotReady), Move::Signer(SignerStatus::Absent)];
const EVERY_ISSUE: [Move; 8] = [
    Move::Issue(Flavour::Good),
    Move::Issue(Flavour::Short),
    Move::Issue(Flavour::Trimmed),
    Move::Issue(Flavour::Foreign),
    Move::Issue(Flavour::Due),
    Move::Issue(Flavour::Provisional),
    Move::Issue(Flavour::Expired),
    Move::Issue(Flavour::Early),
];
/// Two readings of the API server's clock that disagree: they differ by more than ten seconds.
const SERVERS_CLOCK: [Move; 2] = [Move::ServerDated(0), Move::ServerDated(20_000)];
/// A good hint, one that is too early soon, and one with a fault.
const HINTS: [Move; 3] = [Move::Hint(Some(6)), Move::Hint(Some(2)), Move::Hint(None)];
const DISK: [Move; 2] = [Move::Written, Move::WriteFailed];
const LOST_RECORDS: [Move; 2] = [Move::RestartBlank, Move::RestartStale];
const EVERY_FIND: [Move; 10] = [
    Move::Found(None),
    Move::Found(Some(Flavour::Good)),
    Move::Found(Some(Flavour::Short)),
    Move::Found(Some(Flavour::Trimmed)),
    Move::Found(Some(Flavour::Foreign)),
    Move::Found(Some(Flavour::Due)),
    Move::Found(Some(Flavour::Provisional)),
    Move::Found(Some(Flavour::Expired)),
    Move::Found(Some(Flavour::Early)),
    Move::FoundOurs,
];

/// Every world that the model checker explores.
pub fn settings() -> Vec<Setting> {
    let few = [Move::Issue(Flavour::Good), Move::Fail(Failure::Unreachable, None), Move::Fail(Failure::Denied, None)];
    vec![
        setting("replies", small(), 8, usize::MAX, &[&EVERY_ISSUE, &EVERY_FAILURE, &DISK]),
        setting("templates", small(), 6, usize::MAX, &[&few, &TEMPLATE_CHANGES, &SIGNERS, &[Move::RotateNow]]),
        setting(
            "hints",
            small(),
            8,
            usize::MAX,
            &[&few[..2], &HINTS, &[Move::Issue(Flavour::Early), Move::Written, Move::Restart, Move::WallClock]],
        ),
        setting("policies", small(), 6, usize::MAX, &[&few, &DISK, &[Move::Policy, Move::RotateNow]]),
        setting("the store", small(), 6, usize::MAX, &[&few[..2], &DISK, &EVERY_FIND]),
        setting("clocks", small(), 8, usize::MAX, &[&few, &[Move::WallClock, Move::Sleep(6)]]),
        setting(
            "server clock",
            small(),
            6,
            usize::MAX,
            &[&few, &SERVERS_CLOCK, &[Move::Issue(Flavour::Early), Move::WallClock]],
        ),
        setting("restarts", small(), 6, usize::MAX, &[&few, &DISK[..1], &[Move::Restart, Move::RestartAhead]]),
        setting("lost records", small(), 6, usize::MAX, &[&few, &DISK[..1], &LOST_RECORDS, &[Move::Restart]]),
        setting("kubelet", kubelet(), 8, usize::MAX, &[&few, &DISK, &[Move::Restart, Move::RotateNow]]),
        setting("no waits", hasty(), 6, usize::MAX, &[&EVERY_ISSUE, &EVERY_FAILURE, &TEMPLATE_CHANGES]),
        setting("everything", small(), 8, 400_000, &[&everything()]),
    ]
}

/// Every move except three kinds: changes of policy, readings of the API server's clock, and [`Move::RestartStale`].
/// The last kind would make the number of states infinite here: once the wall clock has been set, no two stale records
/// are equal.
fn everything() -> Vec<Move> {
    let rest = [
        Move::Hint(Some(6)),
        Move::Sleep(6),
        Move::WallClock,
        Move::RotateNow,
        Move::Refused,
        Move::Restart,
        Move::RestartAhead,
        Move::RestartBlank,
    ];
    [&EVERY_ISSUE[..], &EVERY_FAILURE, &TEMPLATE_CHANGES, &SIGNERS, &DISK, &EVERY_FIND, &rest].concat()
}

fn setting(name: &'static str, policy: Policy, life: u64, most: usize, moves: &[&[Move]]) -> Setting {
    let moves: Vec<_> = TIME.iter().chain(moves.iter().copied().flatten()).copied().collect();
    // In a world without changes of policy, a second policy would only multiply the keys.
    let other = if moves.contains(&Move::Policy) { stricter(&policy) } else { policy.clone() };
    Setting { name, policy: Arc::new(policy), other: Arc::new(other), life: Duration::from_millis(life), moves, most }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn backoff(first: u64, cap: u64, permille: u16) -> Backoff {
    Backoff::new(ms(first), ms(cap), Window::new(permille, permille).expect("in order")).expect("in order")
}

/// A policy whose limits delay requests: a submission budget of two tokens, a request timeout of two milliseconds, and
/// spacing and backoffs of one to four milliseconds.
fn small() -> Policy {
    Policy {
        window: Window::new(500, 500).expect("in order"),
        request_timeout: ms(2),
        spacing: ms(1),
        budget: Budget::new(2, ms(3)).expect("large enough"),
        transient: backoff(1, 2, 1000),
        refused: backoff(2, 4, 1000),
        write: backoff(1, 2, 1000),
        max_sleep: ms(4),
        new_key_per_attempt: false,
    }
}

/// A second policy for the same certificates: a later rotation point, a longer spacing and refill, and a new key for
/// each request. Two numbers are those of `policy`, since the keys of states depend on them: the number of failures
/// after which a backoff reaches its cap, and the longest time between two checks of the clocks.
fn stricter(policy: &Policy) -> Policy {
    Policy {
        window: Window::new(750, 750).expect("in order"),
        request_timeout: ms(1),
        spacing: ms(2),
        budget: Budget::new(3, ms(4)).expect("large enough"),
        transient: backoff(2, 4, 1000),
        refused: backoff(1, 2, 1000),
        write: backoff(2, 4, 1000),
        new_key_per_attempt: true,
        ..policy.clone()
    }
}

/// A policy like [`Policy::kubelet`], but in milliseconds. It has backoffs [with a beat](Backoff::with_beat), a new key
/// for each request, and a budget that hardly ever delays a request.
fn kubelet() -> Policy {
    let backoff = backoff(1, 4, 1000).with_beat();
    Policy {
        request_timeout: ms(6),
        budget: Budget::new(3, ms(2)).expect("large enough"),
        transient: backoff,
        refused: backoff,
        new_key_per_attempt: true,
        ..small()
    }
}

/// A policy whose backoffs are all zero, the shortest that full jitter may choose. Only the submission budget and the
/// least spacing delay requests.
fn hasty() -> Policy {
    let backoff = backoff(1, 2, 0);
    Policy { spacing: ms(0), transient: backoff, refused: backoff, write: backoff, max_sleep: ms(3), ..small() }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}
