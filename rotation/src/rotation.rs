//! The machine with its hands: [`RotationMachine`] joined to keys, requests and a signer. Still sans-IO.
//!
//! A runtime reports what happened ([`Input`]) and carries out four kinds of [`Command`]: drive an
//! exchange, drop it, write a credential, save a record. Which key, which credential to
//! ask with, whether an issued certificate is served: that is settled here, once, for every runtime.

mod addressee;
mod awaited;
mod clock;
mod command;
mod input;
mod news;
mod notice;
mod record;
mod request;
mod saving;
mod shortfall;
mod snapshot;
mod start;
mod transition;

use std::sync::Arc;
use std::task::Waker;

use perennial::{
    Action, Checkpoint, Event, Failure, Fingerprint, Instant, Key, Now, Policy, RotationMachine, SignerStatus,
};
use perennial_pki::{Credential, KeyPair};

use crate::{Health, Identity, NotYet, Signer};

use addressee::Addressee;
use awaited::Awaited;
pub use clock::ClockOffset;
pub use command::Command;
pub use input::Input;
pub use notice::{News, Notice};
pub use record::{Record, RecordError};
use request::Asking;
use saving::Saving;
pub use snapshot::Snapshot;
pub use start::Start;
pub use transition::Transition;

/// One rotated certificate: decisions, keys and requests, without any I/O.
#[derive(Debug)]
pub struct Rotation {
    machine: Arc<RotationMachine>,
    policy: Arc<Policy>,
    signer: Option<Arc<dyn Signer>>,
    seed: u64,
    served: Option<Arc<Credential>>,
    /// The pair of the certificate that the machine waits for.
    waiting: Option<Arc<Credential>>,
    pending: Option<Arc<KeyPair>>,
    /// The exchange that is out: with which key, and which of our own certificates it shows.
    asking: Option<Asking>,
    /// The signer of the last request, unless another one has replaced it since.
    addressee: Option<Addressee>,
    /// Our own certificate, if it was turned down and the bootstrap identity has not been since.
    refused: Option<Fingerprint>,
    /// As long as the machine remembers a failure.
    request_error: Option<Arc<str>>,
    health: Option<Health>,
    /// As long as the credential is unwritten.
    write_error: Option<Arc<str>>,
    /// The name of the last request object.
    request_name: String,
    saving: Saving,
    issued: u64,
    /// Why the last certificate issued lives too short for the policy.
    short_lived: Option<Arc<str>>,
    /// The wanted common name, if known before the template.
    common_name: Option<String>,
    /// The error for a stored credential that names another party, and so is not used.
    foreign: Option<Arc<str>>,
    /// The last request showed the bootstrap identity.
    bootstrapping: bool,
    /// The newest reading of the signer's clock that the machine was given.
    server_read_at: Option<Instant>,
    /// As it was last known.
    clock_offset: Option<ClockOffset>,
    /// Reminders of an expired certificate given so far.
    reminders: u64,
    /// The identity that a request waits for.
    awaited: Option<Awaited>,
    /// Reports that the identity may have come.
    identity_waker: Waker,
    /// The identity for the request that is about to be submitted, and the fingerprint if it is our own certificate.
    found_identity: Option<Result<(Identity, Option<Fingerprint>), NotYet>>,
    /// The error of a panic that the machine has yet to be brought up to date after.
    panicked: Option<Arc<str>>,
    /// Of the input handled last, or of the start.
    news: Vec<News>,
}

impl Rotation {
    /// Sets what to wake when an identity that a request waits for may have come, so that [`Input::IdentityChanged`] is
    /// handled. Without, the source of the identity is polled only.
    pub fn wake_on_identity(&mut self, waker: Waker) {
        self.identity_waker = waker;
    }

    /// When the next [`Input::Tick`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        let save = self.saving.again_at.filter(|_| self.saves());
        let panicked = self.panicked.as_ref().map(|_| Instant::from_millis(0));
        self.machine.deadline().into_iter().chain(save).chain(self.asks_identity_at()).chain(panicked).min()
    }

    /// The machine as it is now. A clone of the `Arc` keeps this state.
    pub const fn machine(&self) -> &Arc<RotationMachine> {
        &self.machine
    }

    /// The credential that a crash would lose, and whether it is served. Try once more to write it before ending: its key
    /// exists nowhere else.
    pub fn unwritten(&self) -> Option<(&Arc<Credential>, bool)> {
        let (_, serve) = self.machine.writes()?;
        let credential = if serve { &self.served } else { &self.waiting };
        credential.as_ref().map(|credential| (credential, serve))
    }

    /// Everything people may want to know.
    pub fn snapshot(&self, now: Now) -> Snapshot {
        Snapshot {
            credential: self.served.clone(),
            waiting: self.waiting.clone(),
            state: self.machine.state(),
            due: self.machine.due(now),
            unwritten: self.machine.is_unwritten(),
            progress: self.asking.as_ref().and_then(|asking| asking.progress.clone()),
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

    fn clock_offset(&self, now: Now) -> Option<ClockOffset> {
        let known = self.machine.server_time(now).map(|server| ClockOffset::between(server, now));
        known.or(self.clock_offset)
    }

    fn gravest_error(&self) -> Option<&Arc<str>> {
        let errors = [&self.request_error, &self.foreign, &self.write_error];
        let known = errors.into_iter().flatten().next();
        known.or_else(|| self.awaited_reason()).or(self.saving.error.as_ref())
    }

    /// Goes on after a panic, which may have left this half changed: from the machine and the snapshot published last. The
    /// request in flight, whose exchange is lost, fails with the next input, for which a Tick is due at once.
    pub(crate) fn restart(&mut self, machine: Arc<RotationMachine>, published: &Snapshot, error: &Arc<str>, now: Now) {
        self.machine = machine;
        (self.served, self.waiting) = (published.credential.clone(), published.waiting.clone());
        self.asking = None;
        let waits = self.signer.is_some() && self.machine.checkpoint().signer == SignerStatus::NotReady;
        let awaited = self.awaited.take();
        self.awaited = waits.then(|| awaited.unwrap_or_else(|| Awaited::new(&NotYet::coming(&**error), now)));
        self.saving.forget_given();
        self.panicked = Some(error.clone());
        self.news.clear();
    }

    /// What the machine published last learns after a panic: that the request in flight failed, and whether there is a
    /// signer, if that changed in the step that was lost.
    fn missed_events(&self) -> impl Iterator<Item = Event> + Clone + use<> {
        let Checkpoint { in_flight, signer: known, .. } = self.machine.checkpoint();
        let failed = in_flight.map(|(id, _)| Event::CsrFailed { id, failure: Failure::Local, retry_after: None });
        let signer = if self.signer.is_some() { SignerStatus::Ready } else { SignerStatus::Absent };
        let is_missed = self.signer.is_some() != known.is_configured();
        failed.into_iter().chain(is_missed.then_some(Event::SignerChanged(signer)))
    }

    /// Takes in what happened; returns what is to be done, in order.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Command> {
        self.news.clear();
        self.found_identity = None;
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
        while let Some(event) = events.pop_front() {
            let event = match self.identity_changed(&event, now) {
                // In its place.
                Some(changed) if matches!(event, Event::SignerChanged(SignerStatus::Ready)) => changed,
                // After the result of an exchange: a ready signer may lead to a request that supersedes the one that
                // has just brought a certificate.
                Some(ready @ Event::SignerChanged(SignerStatus::Ready))
                    if [&event].into_iter().chain(&events).any(is_result) =>
                {
                    events.push_back(ready);
                    event
                }
                Some(changed) => {
                    events.push_front(event);
                    changed
                }
                None => event,
            };
            let step = Arc::new(Transition::of(&mut self.machine, event, now));
            self.take_decisions(&step, &mut candidate);
            let bootstrapped = self.bootstrapping;
            for action in step.actions.clone() {
                match action {
                    Action::CancelRequest { id } => {
                        self.asking.take_if(|asking| asking.id == id);
                        commands.push(Command::Drop { id });
                    }
                    Action::WriteCert { id, serve, .. } => {
                        let credential = if serve { &self.served } else { &self.waiting }.clone();
                        commands.extend(credential.map(|credential| Command::Write { id, credential, serve }));
                    }
                    Action::SubmitCsr { id, template, key } => {
                        match self.submit(id, &template, key, &mut commands, now) {
                            None => self.note_request(&step, bootstrapped),
                            Some(failed) => events.push_back(failed),
                        }
                    }
                    // It may not be the machine that wants the next Tick: see `deadline`.
                    Action::SetTimer(_) => {}
                }
            }
        }
        self.note_clock(now);
        self.remind(now);
        self.request_error.take_if(|_| self.machine.last_failure().is_none());
        self.write_error.take_if(|_| !self.machine.is_unwritten());
        commands.extend(self.save(now));
        commands
    }

    /// What a restart would need to go on with what was asked last.
    pub fn record(&self, now: Now) -> Option<Record> {
        let (signer_name, server) = self.addressee.clone()?.into_parts();
        let mut pending = self.machine.pending(now)?;
        let key = self.pending.clone().filter(|_| pending.key == Key::Pending);
        pending.key = if key.is_some() { Key::Pending } else { Key::New };
        Some(Record {
            server,
            signer_name,
            request_name: self.request_name.clone(),
            pending,
            turned_down: self.turned_down(),
            key,
        })
    }

    /// The same, if it has changed.
    fn save(&mut self, now: Now) -> Option<Command> {
        if !self.saves() {
            return None;
        }
        let pending = self.machine.pending(now)?;
        let has_key = self.pending.is_some() && pending.key == Key::Pending;
        let is_news = self.saving.wants(&pending, self.turned_down(), has_key, now.instant);
        is_news.then(|| self.record(now)).flatten().map(|record| Command::Save { record: Box::new(record) })
    }

    /// False while a new record would be of no use, or worse than the one before: without a signer, before the first
    /// request to a new one, and while the record leads to a certificate that is not durable.
    fn saves(&self) -> bool {
        self.signer.is_some() && self.addressee.is_some() && !self.is_issued_only()
    }

    /// True if the last answer rejected the credential (401) or did not allow it to request (403).
    fn turned_down(&self) -> Option<Failure> {
        self.machine.last_failure().filter(|last| matches!(last, Failure::Unauthorized | Failure::Forbidden))
    }

    /// What was issued is not durable yet. After a crash now, the record kept leads to it once more.
    fn is_issued_only(&self) -> bool {
        let unwritten = self.unwritten().map(|(credential, _)| credential.key());
        unwritten.zip(self.pending.as_ref()).is_some_and(|(key, pending)| Arc::ptr_eq(key, pending))
    }
}

/// True if an exchange has ended with this event.
const fn is_result(event: &Event) -> bool {
    matches!(event, Event::CsrIssued { .. } | Event::CsrFailed { .. })
}
