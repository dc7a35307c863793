//! Small worlds for the model checker: a policy of a few milliseconds, and an alphabet of moves.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use perennial::{Backoff, Budget, Certificate, Failure, Now, Policy, SignerStatus, Template, UnixTime, Window};

use crate::mint;

/// A small world for the model checker: a policy of a few milliseconds, and the moves to try. The machine counts whole
/// milliseconds, so that steps of one millisecond cover all of time.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The name of the world, after the kind of its events.
    pub name: &'static str,
    /// The policy. Without jitter, which would be drawn anew for each id and multiply the states.
    pub policy: Arc<Policy>,
    /// The policy that [`Move::Policy`] changes to. Equal to the first one in worlds without that move.
    pub other: Arc<Policy>,
    /// The lifetime of a healthy certificate.
    pub life: Duration,
    /// Every move that is tried in each state. Time passes in every world.
    pub moves: Vec<Move>,
    /// The number of states after which the search stops, at the end of a layer.
    pub most: usize,
}

/// A move of the model checker: an event, or a change around the machine. Possible only if it makes sense in the state:
/// a reply only while a request is in flight, for example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// A millisecond passes, without an event.
    Pass,
    /// Time passes to the deadline, and a Tick comes.
    Alarm,
    /// A Tick comes now, too early or late.
    Tick,
    /// The computer sleeps for this many milliseconds, past the deadline.
    Sleep(u64),
    /// The wall clock is set ahead of the true time, or back to it.
    WallClock,
    /// A response of the API server shows that its clock is this many milliseconds ahead of the true time.
    ServerDated(u64),
    /// The template changes to this one, or there is none any more.
    Template(Option<TemplateChoice>),
    /// The signer is configured or removed, or the identity to authenticate with comes or goes.
    Signer(SignerStatus),
    /// The policy changes to [`Setting::other`], or back.
    Policy,
    /// A rotation is requested.
    RotateNow,
    /// A server refuses the served certificate.
    Refused,
    /// The signer issues a certificate of this kind for the request in flight.
    Issue(Flavour),
    /// The request in flight fails, with a `Retry-After` of this many milliseconds if there is a number.
    Fail(Failure, Option<u64>),
    /// The write that is under way succeeded.
    Written,
    /// The write that is under way failed.
    WriteFailed,
    /// Another program puts a certificate of this kind into the store, or removes the one there.
    Found(Option<Flavour>),
    /// Another program puts the served certificate into the store.
    FoundOurs,
    /// The process restarts from the durable certificates and its last pending record.
    Restart,
    /// The process restarts without its pending record.
    RestartBlank,
    /// The process restarts with the pending record from before the last request, or none: the last write of it failed.
    RestartStale,
    /// The process restarts, and the wall clock was set ahead meanwhile.
    RestartAhead,
}

/// Three templates: a plain one, one that requests more, and one for another party.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateChoice {
    /// A common name.
    Plain,
    /// The common name of [`Plain`](Self::Plain) and an IP address.
    More,
    /// Another common name.
    Other,
}

/// The kind of a certificate, good or bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// With the names and the lifetime that were requested.
    Good,
    /// As requested, but valid for only two milliseconds.
    Short,
    /// Without one of the requested names.
    Trimmed,
    /// With another common name.
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

/// How late a Tick may come, in milliseconds. After [`Move::Sleep`] it may come later.
pub(super) const LATE: u64 = 1;

/// The templates, in the order of [`TemplateChoice`].
pub(super) static TEMPLATES: LazyLock<[Arc<Template>; 3]> = LazyLock::new(|| {
    let more = Template::new("a").with_ip_addresses([[192, 0, 2, 1].into()]);
    [Template::new("a"), more, Template::new("b")].map(Arc::new)
});

impl Setting {
    /// The first policy and the one to which it may change.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        [&self.policy, &self.other].into_iter()
    }

    /// A certificate of this flavour, issued now.
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

/// Moves in which the request in flight fails: each failure once, and two with a `Retry-After`.
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
/// Two readings that disagree: their difference exceeds the ten seconds that agreeing readings may differ by.
const SERVERS_CLOCK: [Move; 2] = [Move::ServerDated(0), Move::ServerDated(20_000)];
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

/// Every move except restarts with stale records: after steps of the wall clock, no two stale records are equal, and
/// the states would never end.
fn everything() -> Vec<Move> {
    let rest = [
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

/// A tight policy: two tokens, short timeouts, and waits that delay requests.
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

/// Another policy for the same certificates: later, slower, and with a new key each time. The number of failures that
/// reach the cap and the grid of clock checks are as in `policy`, since the keys of states depend on them.
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

/// [`Policy::kubelet`] in milliseconds: a steady beat, a new key each time, a budget that hardly delays anything.
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

/// A policy with waits of zero, as full jitter may choose: only budget and spacing delay requests.
fn hasty() -> Policy {
    let backoff = backoff(1, 2, 0);
    Policy { spacing: ms(0), transient: backoff, refused: backoff, write: backoff, max_sleep: ms(3), ..small() }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}
