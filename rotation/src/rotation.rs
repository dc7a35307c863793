//! [`Rotation`]: a [`RotationMachine`] with its keys, requests and signer. Still sans-IO.
//!
//! A runtime reports what happened ([`Input`]) and carries out five kinds of [`Command`]: drive an exchange, drop an
//! exchange, call the key source, write a credential, save a record. This module chooses the key and the identity of
//! each request and judges issued certificates, for every runtime alike.

mod addressee;
mod awaited;
mod clock;
mod command;
mod input;
mod keyed;
mod news;
mod notice;
mod record;
mod request;
mod saving;
mod shortfall;
mod snapshot;
mod start;
mod transition;

use std::mem;
use std::sync::Arc;
use std::task::Waker;

use perennial::{
    Action, Certificate, Checkpoint, Event, Failure, Fingerprint, Instant, Key, Now, Pending, RequestId,
    RotationMachine, SignerStatus, Template,
};
use perennial_pki::{Credential, KeyAlgorithm, KeyPair};

use crate::{Health, Identity, NotYet, Signer};

use addressee::{Address, Addressee};
use awaited::Awaited;
pub use clock::ClockOffset;
pub use command::Command;
pub use input::Input;
use keyed::KeysElsewhere;
pub use notice::{News, Notice};
pub use record::{Record, RecordError};
use request::InFlight;
use saving::{Mark, Saving};
pub use snapshot::Snapshot;
pub use start::Start;
use start::ready;
pub use transition::Transition;

/// One rotated certificate: decisions, keys and requests, without any I/O.
#[derive(Debug, Default)]
pub struct Rotation {
    machine: Arc<RotationMachine>,
    signer: Option<Arc<dyn Signer>>,
    served: Option<Arc<Credential>>,
    /// The latest certificate that was both served and durable; at first, the one that the rotation began with.
    in_place: Option<Arc<Certificate>>,
    /// The pair of the machine's waiting certificate.
    waiting: Option<Arc<Credential>>,
    /// The pending key: that of the last request, until its certificate is durable or the key must not be used again.
    pending: Option<Arc<KeyPair>>,
    /// True for a member of a fleet, which submits a request only when its turn is granted.
    is_shared: bool,
    /// The source of keys that stay elsewhere; `None`: keys are generated in memory.
    keys: Option<Box<KeysElsewhere>>,
    /// The request whose key and CSR the key source is making, and its template.
    keying: Option<(RequestId, Arc<Template>)>,
    /// The request in flight.
    in_flight: Option<Box<InFlight>>,
    /// The signer of the last request, unless another signer has replaced it since.
    addressee: Option<Addressee>,
    /// Fingerprint of the own certificate if a server rejected it: requests then prefer the bootstrap identity. `None`
    /// again once a server rejects the bootstrap identity, too.
    refused: Option<Box<Fingerprint>>,
    /// The algorithm of the keys of requests, if the signer has refused keys of the profile's.
    other_key: Option<KeyAlgorithm>,
    /// Error of the last request, for people; `None` once the machine has no last failure.
    request_error: Option<Arc<str>>,
    health: Option<Health>,
    /// Error of the last attempt to write the credential; `None` once the credential is durable.
    write_error: Option<Arc<str>>,
    /// The fingerprint of the last certificate that requests with another [digest](Signer::request_digest) have led to.
    outdated: Option<Box<Fingerprint>>,
    /// The name of the last request object; empty once the certificate of that request is durable.
    request_name: Box<str>,
    saving: Saving,
    issued: u64,
    /// The warning for the last issued certificate, if its lifetime is too short for the policy.
    short_lived: Option<Arc<str>>,
    /// The wanted common name, if it is known before the template.
    common_name: Option<Box<str>>,
    /// The error about the stored credential, if that credential is foreign (of another common name) and so is not
    /// used.
    foreign: Option<Arc<str>>,
    /// True if the last request authenticated with the bootstrap identity.
    bootstrapping: bool,
    /// Local time of the newest reading of the signer's clock that the machine has handled.
    server_read_at: Option<Instant>,
    /// The last known offset of the signer's clock; stays while new readings of that clock disagree.
    clock_offset: Option<ClockOffset>,
    /// Number of reminders of the expired certificate ([`News::Expired`]) so far.
    reminders: u64,
    /// When a member of a fleet emits the next reminder: no regular check of the clocks wakes it for that.
    reminds_at: Option<Instant>,
    /// The identity that a request waits for.
    awaited: Option<Box<Awaited>>,
    /// Woken by an identity source when the awaited identity may be available.
    identity_waker: Option<Waker>,
    /// Set once the task is ending: no request is begun any more.
    is_ending: bool,
    /// The identity that was read in the current step, for the request of this step. The fingerprint is `Some` if the
    /// identity is the own certificate.
    found_identity: Option<Box<FoundIdentity>>,
    /// The error of the last panic, until the machine has handled the [events that it missed](Self::missed_events).
    panicked: Option<Arc<str>>,
    /// News that was not taken yet: of the last input or, before the first input, of the start.
    news: Vec<News>,
}

/// An identity that was read from its source, with the fingerprint of the own certificate if the identity is that.
type FoundIdentity = Result<(Identity, Option<Fingerprint>), NotYet>;

impl Rotation {
    /// Sets the waker for requests that wait for an identity. The identity source wakes this waker when the identity
    /// may be available; the runtime then passes [`Input::IdentityChanged`] to [`handle`](Self::handle). Without a
    /// waker, the rotation only polls the identity source.
    pub fn wake_on_identity(&mut self, waker: Waker) {
        self.identity_waker = Some(waker);
    }

    /// Begins no request from now on. The results of writes are still inputs.
    pub(crate) fn end(&mut self) {
        self.is_ending = true;
    }

    /// When to pass the next [`Input::Tick`]; `None`: no Tick is needed until another input.
    pub fn deadline(&self) -> Option<Instant> {
        let save = self.saving.again_at().filter(|_| self.saves());
        let panicked = self.panicked.as_ref().map(|_| Instant::from_millis(0));
        let own = [save, self.polls_identity_at(), panicked, self.reminds_at];
        self.machine.deadline().into_iter().chain(own.into_iter().flatten()).min()
    }

    /// When to call [`close_kept`](Self::close_kept) after an exchange; `None` if the signer keeps no connections now.
    pub(crate) fn kept_until(&self) -> Option<Instant> {
        self.signer.as_ref()?.kept_until()
    }

    /// Closes the connections that exchanges of the signer have kept for long enough.
    pub(crate) fn close_kept(&self, now: Now) {
        self.signer.iter().for_each(|signer| signer.close_kept(now));
    }

    /// The machine in its current state. A clone of the `Arc` stays in this state.
    pub const fn machine(&self) -> &Arc<RotationMachine> {
        &self.machine
    }

    /// The credential that is not durable yet, and whether it is served. Before the process ends, try once more to
    /// write this credential, since its key exists nowhere else.
    pub fn unwritten(&self) -> Option<(&Arc<Credential>, bool)> {
        let (_, serve) = self.machine.writes()?;
        let credential = if serve { &self.served } else { &self.waiting };
        credential.as_ref().map(|credential| (credential, serve))
    }

    /// The state of the rotation at `now`, for handles, status pages and metrics.
    pub fn snapshot(&self, now: Now) -> Snapshot {
        Snapshot {
            credential: self.served.clone(),
            waiting: self.waiting.clone(),
            state: self.machine.state(),
            due: self.machine.due(now),
            rotation_point: self.machine.rotation_point(),
            last_failure: self.machine.last_failure(),
            unwritten: self.machine.is_unwritten(),
            progress: self.in_flight.as_ref().and_then(|in_flight| in_flight.progress.clone()),
            health: self.health,
            last_error: self.gravest_error().cloned(),
            issued: self.issued,
            requested_lifetime: self.signer.as_ref().and_then(|signer| signer.profile().lifetime),
            short_lived: self.short_lived.clone(),
            bootstrapping: self.bootstrapping,
            clock_offset: self.clock_offset(now),
            at: now,
        }
    }

    /// The seed of all jitter of this rotation.
    fn seed(&self) -> u64 {
        self.machine.checkpoint().seed
    }

    fn clock_offset(&self, now: Now) -> Option<ClockOffset> {
        let known = self.machine.server_time(now).map(|server| ClockOffset::between(server, now));
        known.or(self.clock_offset)
    }

    fn gravest_error(&self) -> Option<&Arc<str>> {
        let errors = [&self.request_error, &self.foreign, &self.write_error];
        let known = errors.into_iter().flatten().next();
        known.or_else(|| self.awaited_reason()).or_else(|| self.saving.error())
    }

    /// Resets the rotation to the machine and the snapshot that were published last, since a panic may have left the
    /// rotation half changed. The exchange in flight is lost: its request fails at the next input, and a Tick is due at
    /// once.
    pub(crate) fn restart(&mut self, machine: Arc<RotationMachine>, published: &Snapshot, error: &Arc<str>, now: Now) {
        self.machine = machine;
        (self.served, self.waiting) = (published.credential.clone(), published.waiting.clone());
        (self.in_flight, self.keying, self.found_identity) = (None, None, None);
        let waits = self.signer.is_some() && self.machine.checkpoint().signer == SignerStatus::NotReady;
        let awaited = self.awaited.take();
        let begun = || Box::new(Awaited::new(&NotYet::coming(&**error), now));
        self.awaited = waits.then(|| awaited.unwrap_or_else(begun));
        // The record that was to be saved may be lost.
        self.saving.given = None;
        self.panicked = Some(error.clone());
        // The news of the input that panicked is lost. Undo what it set, so that the same certificate leads to the news
        // again.
        for news in self.news.drain(..).rev() {
            if let News::InPlace { replaced } = news {
                self.in_place = replaced;
            }
        }
    }

    /// Events that a panic has kept from the machine: the failure of the request in flight and, if the signer changed
    /// in the step that panicked, this change.
    fn missed_events(&self) -> impl Iterator<Item = Event> + Clone + use<> {
        let Checkpoint { in_flight, signer: known, .. } = self.machine.checkpoint();
        let failed = in_flight.map(|(id, _)| Event::CsrFailed { id, failure: Failure::Local, retry_after: None });
        let signer = if self.signer.is_some() { ready(self.is_shared) } else { SignerStatus::Absent };
        let is_missed = self.signer.is_some() != known.is_configured();
        failed.into_iter().chain(is_missed.then_some(Event::SignerChanged(signer)))
    }

    /// Handles an input at `now`; returns the commands to carry out, in order. [`take_news`](Self::take_news) returns
    /// the news of the same input.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Command> {
        self.news.clear();
        let mut commands = Vec::new();
        let mut candidate = None;
        let mut events = self.translate(input, &mut candidate, &mut commands, now);
        if let Some(error) = self.panicked.take() {
            let missed = self.missed_events();
            if missed.clone().any(|event| is_result(&event)) {
                self.request_error = Some(error);
            }
            events = missed.chain(events).collect();
        }
        while let Some(mut event) = events.pop_front() {
            if self.has_awaited(&event, now) {
                let ready = Event::SignerChanged(ready(self.is_shared));
                // `ready` comes after the result of an exchange: handled first, it may lead to a request that
                // supersedes the one that has just brought a certificate.
                if is_result(&event) || events.iter().any(is_result) {
                    events.push_back(ready);
                } else {
                    events.push_front(mem::replace(&mut event, ready));
                }
            }
            let mut step = Transition::of(&mut self.machine, event, now);
            let pairs = (self.served.clone(), self.waiting.clone(), candidate.clone());
            // Called before `must_await` reads the identity: the identity may be the pair that the machine has just
            // accepted.
            self.hold_decided(&mut candidate);
            if self.must_await(&step, now) {
                // Undo the step, as if the event had not happened yet: the request must take nothing from the budget.
                self.machine = step.before;
                (self.served, self.waiting, candidate) = pairs;
                // Handle the event again after `NotReady`, unless it sets the status of the signer: it would override
                // `NotReady`.
                if !matches!(step.event, Event::SignerChanged(_)) {
                    events.push_front(step.event);
                }
                step = Transition::of(&mut self.machine, Event::SignerChanged(SignerStatus::NotReady), now);
                self.hold_decided(&mut candidate);
            }
            let step = Arc::new(step);
            self.take_decisions(&step);
            let bootstrapped = self.bootstrapping;
            for action in step.actions.clone() {
                match action {
                    Action::CancelRequest { id } => {
                        self.in_flight.take_if(|in_flight| in_flight.id == id);
                        self.keying.take_if(|(keying, _)| *keying == id);
                        commands.push(Command::Drop { id });
                    }
                    Action::WriteCert { id, serve, .. } => {
                        let credential = if serve { &self.served } else { &self.waiting }.clone();
                        credential.iter().for_each(|pair| self.note_stored(pair));
                        commands.extend(credential.map(|credential| Command::Write { id, credential, serve }));
                    }
                    Action::SubmitCsr { id, template, key } => {
                        match self.submit(id, &template, key, &mut commands, now) {
                            None => self.note_request(&step, bootstrapped),
                            Some(failed) => events.push_back(failed),
                        }
                    }
                    // The rotation has deadlines of its own beside the machine's: see `deadline`.
                    Action::SetTimer(_) => {}
                }
            }
            // The next step may have another template or certificate.
            self.found_identity = None;
        }
        self.note_clock(now);
        self.remind(now);
        self.request_error.take_if(|_| self.machine.last_failure().is_none());
        self.write_error.take_if(|_| !self.machine.is_unwritten());
        if let Some(save) = self.save(now) {
            // Before the write: a restart that finds the certificate in the store needs its rotation point, too.
            let write = commands.iter().position(|command| matches!(command, Command::Write { .. }));
            commands.insert(write.unwrap_or(commands.len()), save);
        }
        commands
    }

    /// The pending record: the facts and the key that let a restart continue the last request. `None` before the first
    /// request to the current signer.
    pub fn record(&self, now: Now) -> Option<Record> {
        let Address { name: signer_name, endpoint: server, request_digest } = self.last_address()?;
        let mut pending = self.machine.pending(now)?;
        let key = self.pending.clone().filter(|_| self.keeps_key(&pending));
        pending.key = if key.is_some() { Key::Pending } else { Key::New };
        Some(Record {
            server,
            signer_name,
            request_digest,
            request_name: self.request_name.to_string(),
            pending,
            renewal: self.machine.renewal(),
            outdated: self.outdated.as_deref().copied(),
            turned_down: self.turned_down(),
            key,
        })
    }

    /// The command to save the record, if the record has changed or a failed save is due for another attempt.
    fn save(&mut self, now: Now) -> Option<Command> {
        if !self.saves() {
            return None;
        }
        let pending = self.machine.pending(now)?;
        let has_key = self.pending.is_some() && self.keeps_key(&pending);
        let mark = Mark::of(&pending, self.machine.renewal(), self.turned_down(), has_key);
        let is_news = self.saving.wants(mark, now.instant);
        is_news.then(|| self.record(now)).flatten().map(|record| Command::Save { record: Box::new(record) })
    }

    /// True if a record has the pending key: for a retry, or as the only way back to a certificate that is not durable.
    fn keeps_key(&self, pending: &Pending) -> bool {
        pending.key == Key::Pending || self.is_issued_unwritten()
    }

    /// False if a new record would be useless, or worse than the saved one: without a signer, before the first request
    /// to a new signer, and while a certificate is not durable, to which the saved record leads a restart. A rotation
    /// point by the signer's hint is saved even then: only the record has it.
    fn saves(&self) -> bool {
        let is_useful = !self.is_issued_unwritten() || self.machine.renewal().is_some();
        self.signer.is_some() && self.addressee.is_some() && is_useful
    }

    /// The last failure, if the server rejected the identity of the request (401) or did not allow that identity to
    /// submit requests (403).
    fn turned_down(&self) -> Option<Failure> {
        self.machine.last_failure().filter(|last| matches!(last, Failure::Unauthorized | Failure::Forbidden))
    }

    /// True if the certificate issued for the pending key is not durable yet. If the process crashed now, its next
    /// start would find the certificate at the signer, by the saved record.
    fn is_issued_unwritten(&self) -> bool {
        let unwritten = self.unwritten().map(|(credential, _)| credential.key());
        unwritten.zip(self.pending.as_ref()).is_some_and(|(key, pending)| Arc::ptr_eq(key, pending))
    }
}

/// True for an event that reports the result of an exchange: a certificate or a failure.
const fn is_result(event: &Event) -> bool {
    matches!(event, Event::CsrIssued { .. } | Event::CsrFailed { .. })
}
