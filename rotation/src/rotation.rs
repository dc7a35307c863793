//! The machine with its hands: [`RotationMachine`] joined to keys, requests and a signer. Still sans-IO.
//!
//! A runtime reports what happened ([`Input`]) and carries out five kinds of [`Command`]: drive an
//! exchange, drop it, write a credential, save a record, set a timer. Which key, which credential to
//! ask with, whether an issued certificate is served: that is settled here, once, for every runtime.

mod clock;
mod memory;
mod observer;
mod record;
mod shortfall;
mod terms;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use perennial::{
    Action, Certificate, Event, Failure, Fingerprint, Instant, Key, Now, Policy, RequestId, RotationMachine, Setup,
    SignerStatus, State, Template,
};
use perennial_pki::{Chain, Credential, KeyPair, certificate_request};

use crate::{
    Authentication, Exchange, Health, Identity, Issued, NotYet, Progress, ServerDate, SignError, SignRequest, Signer,
};

pub use clock::ClockOffset;
use memory::Memory;
use observer::Observers;
pub use observer::{Observer, Transition};
pub use record::{Record, RecordError};
use shortfall::{excess, foreign, shortfall, too_short};
pub use terms::{Command, Input, Snapshot};

/// What a rotation starts from.
#[derive(Debug)]
pub struct Start {
    /// The numbers to go by.
    pub policy: Arc<Policy>,
    /// Who to ask. `None`: rotation is not enabled, what is there is served.
    pub signer: Option<Arc<dyn Signer>>,
    /// The identity wanted.
    pub template: Option<Arc<Template>>,
    /// For whom, if that is known before the rest of the template: restarts, and tools that look at the directory, compute
    /// the same rotation points from it.
    pub common_name: Option<String>,
    /// The credential at hand.
    pub credential: Option<Arc<Credential>>,
    /// The successor of [`credential`](Self::credential), durable and not valid yet.
    pub waiting: Option<Arc<Credential>>,
    /// It is nowhere but in memory: it is written first of all.
    pub unwritten: bool,
    /// Request a new credential at once, since other programs do not find this one under the name they read.
    pub rotate_now: bool,
    /// What an earlier run left: the last record given with a [`Command::Save`]. One that is of another server, another
    /// signer, another common name or another kind of key than are wanted now is disregarded.
    pub pending: Option<Record>,
}

/// One rotated certificate: decisions, keys and requests, without any I/O.
#[derive(Debug)]
pub struct Rotation {
    machine: RotationMachine,
    policy: Arc<Policy>,
    signer: Option<Arc<dyn Signer>>,
    seed: u64,
    served: Option<Arc<Credential>>,
    /// The pair of the certificate that the machine waits for.
    waiting: Option<Arc<Credential>>,
    pending: Option<Arc<KeyPair>>,
    /// The exchange that is out: with which key, and which of our own certificates it shows.
    asking: Option<Asking>,
    /// Our own certificate, if it was turned down and the bootstrap identity has not been since.
    refused: Option<Fingerprint>,
    /// As long as the machine remembers a failure.
    request_error: Option<Arc<str>>,
    health: Option<Health>,
    /// As long as the credential is unwritten.
    write_error: Option<Arc<str>>,
    /// The name of the last request object.
    csr_name: String,
    memory: Memory,
    observers: Observers,
    /// The Tick last asked for.
    timer: Option<Instant>,
    issued: u64,
    /// Why the last certificate issued lives too short for the policy.
    short_lived: Option<Arc<str>>,
    /// The wanted common name, if known before the template.
    common_name: Option<String>,
    /// The error for a stored credential that names another party, and so is not used.
    foreign: Option<Arc<str>>,
    /// The last request showed the bootstrap identity.
    bootstrapping: bool,
    /// The newest reading of the API server's clock that the machine was given.
    server_read_at: Option<Instant>,
    /// As it was last known.
    clock_offset: Option<ClockOffset>,
}

#[derive(Debug)]
struct Asking {
    id: RequestId,
    template: Arc<Template>,
    key: Arc<KeyPair>,
    shown: Option<Fingerprint>,
    progress: Option<Progress>,
}

impl Rotation {
    /// A rotation that wants its first Tick at `now`.
    pub fn new(start: Start, now: Now) -> Self {
        let Start { policy, signer, template, common_name, credential, waiting, unwritten, rotate_now, pending } =
            start;
        // Whoever looks on while somebody else keeps the certificate has no wish of his own.
        let common_name = common_name.filter(|_| signer.is_some());
        let wanted = template.as_deref().map(Template::common_name).or(common_name.as_deref());
        let foreign = foreign_to(wanted, credential.as_deref()).map(Arc::from);
        let credential = credential.filter(|_| foreign.is_none());
        let named = name_of(template.as_deref(), credential.as_deref()).or(common_name.as_deref());
        let record = pending.filter(|record| is_of_use(record, signer.as_deref(), named));
        let named = named.or_else(|| record.as_ref().map(|record| record.pending.template.common_name()));
        // What restarts, and tools that look at a directory, agree on: who signs, and for whom.
        let seed = perennial::seed(signer.as_ref().map_or("", |signer| signer.name()), named.unwrap_or(""));
        let memory = Memory::new(policy.write, seed, record.as_ref());
        let (csr_name, pending, key) =
            record.map_or_else(Default::default, |Record { csr_name, mut pending, key, .. }| {
                // Its certificate is there: the key has done its work, which was not saved any more.
                let pairs = [&credential, &waiting].into_iter().flatten();
                let key =
                    key.filter(|key| pairs.clone().all(|pair| pair.key().public_key_der() != key.public_key_der()));
                pending.key = if key.is_some() { Key::Pending } else { Key::New };
                (csr_name, Some(pending), key)
            });
        // Until it is durable, a crash finds it again by its key, which stays in the record.
        let only_here = || credential.as_ref().filter(|_| unwritten).map(|credential| credential.key().clone());
        let key = key.or_else(only_here);
        let setup = Setup {
            policy: policy.clone(),
            seed,
            signer: if signer.is_some() { SignerStatus::Ready } else { SignerStatus::Absent },
            certificate: credential.as_ref().map(|credential| credential.chain().certificate().clone()),
            waiting: waiting.as_ref().map(|waiting| waiting.chain().certificate().clone()),
            unwritten,
            // Asked for, and neither issued nor refused: whatever it was for, it is gone on with.
            rotate_now: rotate_now
                || pending.as_ref().is_some_and(|pending| {
                    let wanted = template.as_ref().is_none_or(|template| *template == pending.template);
                    credential.is_some() && pending.key == Key::Pending && wanted
                }),
            template,
            pending,
        };
        let machine = RotationMachine::new(setup, now);
        let waiting = waiting.filter(|_| machine.waiting().is_some());
        Self {
            machine,
            policy,
            signer,
            seed,
            served: credential,
            waiting,
            pending: key,
            asking: None,
            refused: None,
            request_error: None,
            health: None,
            write_error: None,
            csr_name,
            memory,
            observers: Observers::default(),
            timer: Some(now.instant),
            issued: 0,
            short_lived: None,
            common_name,
            foreign,
            bootstrapping: false,
            server_read_at: None,
            clock_offset: None,
        }
    }

    /// From now on, this looks on.
    pub fn observe(&mut self, observer: Observer) {
        self.observers.0.push(observer);
    }

    /// When the next [`Input::Tick`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        let save = self.memory.again_at().filter(|_| !self.is_issued_only());
        self.machine.deadline().into_iter().chain(save).min()
    }

    /// The machine, to look at.
    pub fn machine(&self) -> &RotationMachine {
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
            wished_lifetime: self.signer.as_ref().and_then(|signer| signer.profile().lifetime),
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
        errors.into_iter().flatten().next().or_else(|| self.memory.error())
    }

    /// Takes in what happened; returns what is to be done, in order.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut candidate = None;
        let mut events = self.translate(input, &mut candidate, now);
        while let Some(event) = events.pop_front() {
            let issued =
                if let Event::CsrIssued { certificate, .. } = &event { Some(certificate.clone()) } else { None };
            let actions = self.observers.handle(&mut self.machine, event, now);
            self.look_at(&mut candidate, issued.as_deref(), now);
            for action in actions {
                match action {
                    Action::CancelRequest { id } => {
                        let dropped = self.asking.take_if(|asking| asking.id == id);
                        self.explain_timeout(dropped);
                        commands.push(Command::Drop { id });
                    }
                    Action::WriteCert { id, serve, .. } => {
                        let credential = if serve { &self.served } else { &self.waiting }.clone();
                        commands.extend(credential.map(|credential| Command::Write { id, credential, serve }));
                    }
                    Action::SubmitCsr { id, template, key } => match self.ask(id, &template, key, now) {
                        Ok(exchange) => {
                            commands.extend(self.save(now));
                            commands.push(Command::Drive { id, exchange });
                        }
                        Err(error) => {
                            self.asking = None;
                            self.health = error.health.or(self.health);
                            let SignError { failure, retry_after, message, .. } = error;
                            self.request_error = Some(message.into());
                            events.push_back(Event::CsrFailed { id, failure, retry_after });
                        }
                    },
                    // It may not be the machine that wants the next Tick.
                    Action::SetTimer(_) => {}
                }
            }
        }
        self.clock_offset = self.clock_offset(now);
        self.request_error.take_if(|_| self.machine.last_failure().is_none());
        self.write_error.take_if(|_| !self.machine.is_unwritten());
        commands.extend(self.save(now));
        let deadline = self.deadline();
        if self.timer != deadline {
            self.timer = deadline;
            commands.push(Command::SetTimer(deadline));
        }
        commands
    }

    /// What a restart would need to go on with what was asked last.
    pub fn record(&self, now: Now) -> Option<Record> {
        let signer = self.signer.as_ref()?;
        let (server, signer_name) = (signer.endpoint(), signer.name().to_owned());
        let mut pending = self.machine.pending(now)?;
        let key = self.pending.clone().filter(|_| pending.key == Key::Pending);
        pending.key = if key.is_some() { Key::Pending } else { Key::New };
        Some(Record {
            server,
            signer_name,
            csr_name: self.csr_name.clone(),
            pending,
            turned_down: self.turned_down(),
            key,
        })
    }

    /// The same, if it has changed.
    fn save(&mut self, now: Now) -> Option<Command> {
        if self.is_issued_only() || self.signer.is_none() {
            return None;
        }
        let pending = self.machine.pending(now)?;
        let has_key = self.pending.is_some() && pending.key == Key::Pending;
        let is_news = self.memory.wants(&pending, self.turned_down(), has_key, now.instant);
        is_news.then(|| self.record(now)).flatten().map(|record| Command::Save { record: Box::new(record) })
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

    /// Serves the pair the machine has just decided to hold, or says why an issued one is not good enough.
    fn look_at(&mut self, candidate: &mut Option<Arc<Credential>>, issued: Option<&Certificate>, now: Now) {
        let is = |pair: &Arc<Credential>, certificate: Option<&Arc<Certificate>>| {
            certificate.is_some_and(|certificate| certificate.fingerprint == pair.chain().certificate().fingerprint)
        };
        let (held, waits) = (self.machine.certificate(), self.machine.waiting());
        let accepted = candidate.take_if(|new| is(new, held) || is(new, waits));
        if let (Some(accepted), Some(_)) = (&accepted, issued) {
            let validity = accepted.chain().certificate().validity;
            self.short_lived = too_short(&self.policy, validity, now.unix).map(Into::into);
            self.issued += 1;
        }
        // What waited may be served from now on.
        let known = [accepted, self.served.take(), self.waiting.take()];
        let pair_of = |certificate| known.iter().flatten().find(|pair| is(pair, certificate)).cloned();
        (self.served, self.waiting) = (pair_of(held), pair_of(waits));
        if let (Some(failure), Some(issued)) = (self.machine.last_failure(), issued) {
            let asked = self.machine.pending(now).map(|pending| pending.template);
            self.request_error = Some(shortfall(failure, issued, asked.as_deref(), now.unix).into());
        }
    }

    /// The machine gave up on a request; only we know how far it had come.
    fn explain_timeout(&mut self, dropped: Option<Asking>) {
        if let State::BackingOff { last: last @ Failure::TimedOut, .. } = self.machine.state() {
            let progress = dropped.and_then(|asking| asking.progress);
            let progress = progress.map_or_else(String::new, |progress| format!("; it ended at: {progress}"));
            self.request_error = Some(format!("{}{progress}", last.describe()).into());
        }
    }

    /// From a runtime's terms to the machine's. A pair that may come to be served goes to `candidate`.
    fn translate(&mut self, input: Input, candidate: &mut Option<Arc<Credential>>, now: Now) -> VecDeque<Event> {
        let event = match input {
            Input::Tick => Event::Tick,
            Input::TemplateChanged(template) => Event::TemplateChanged(template),
            Input::RotateNow => Event::RotateNow,
            Input::Refused { fingerprint } => {
                // As if we had been turned down ourselves: the bootstrap identity is next.
                let held = self.served.as_ref().map(|own| own.chain().certificate().fingerprint);
                self.refused = held.filter(|held| *held == fingerprint).or(self.refused);
                Event::CertRefused { fingerprint }
            }
            Input::Progressed { id, progress, health } => {
                self.health = health.or(self.health);
                if let Some(asking) = self.asking.as_mut().filter(|asking| asking.id == id) {
                    asking.progress = Some(progress);
                }
                return self.server_dated(health.and_then(|health| health.date), now).into_iter().collect();
            }
            Input::ServerDated(date) => return self.server_dated(Some(date), now).into_iter().collect(),
            Input::Finished { id, result } => {
                let Some(asking) = self.asking.take_if(|asking| asking.id == id) else { return VecDeque::new() };
                let health = result.as_ref().map_or_else(|error| error.health, |issued| issued.health);
                self.health = health.or(self.health);
                // What was issued is judged by the clock that its answer showed, too.
                let date = health.and_then(|health| health.date);
                let mut events: VecDeque<_> = self.server_dated(date, now).into_iter().collect();
                events.extend(self.finished(asking, result, candidate));
                return events;
            }
            Input::Unable { id, why } => {
                self.asking.take_if(|asking| asking.id == id);
                self.request_error = Some(why.into());
                Event::CsrFailed { id, failure: Failure::Local, retry_after: None }
            }
            Input::Written { id, result: Ok(()) } => {
                // Durable: its key is pending no more.
                let is_owed = self.machine.writes().is_some_and(|(owed, _)| owed == id);
                let written = self.unwritten().filter(|_| is_owed).map(|(credential, _)| credential.key().clone());
                self.pending.take_if(|pending| written.is_some_and(|key| Arc::ptr_eq(&key, pending)));
                self.foreign = None;
                Event::CertWritten { id }
            }
            Input::Written { id, result: Err(why) } => {
                self.write_error = Some(why.into());
                Event::WriteFailed { id }
            }
            Input::Saved { result } => {
                self.memory.saved(result, now.instant);
                return VecDeque::new();
            }
            Input::Replaced(found) => {
                let found = self.not_foreign(found);
                candidate.clone_from(&found);
                Event::CertReplaced(found.map(|credential| credential.chain().certificate().clone()))
            }
        };
        VecDeque::from([event])
    }

    /// The newest reading of the API server's clock, if not reported yet.
    fn server_dated(&mut self, date: Option<ServerDate>, now: Now) -> Option<Event> {
        let ServerDate { unix, at } = date?;
        // An answer that comes with its request's timeout is still taken: the machine must not look at the clocks before.
        let is_late = matches!(self.machine.state(), State::Requesting { until, .. } if until <= now.instant);
        if is_late || self.server_read_at.is_some_and(|last| at <= last) {
            return None;
        }
        self.server_read_at = Some(at);
        Some(Event::ServerDated { unix: unix.after(now.instant.since(at)) })
    }

    /// Records an error if the stored credential names another party. The machine judges names by its template only, and
    /// may have none.
    fn not_foreign(&mut self, found: Option<Arc<Credential>>) -> Option<Arc<Credential>> {
        let template = self.machine.template().map(|template| template.common_name());
        let wanted = template.or(self.common_name.as_deref());
        let held = |found: &&Arc<Credential>| self.machine.certificate() != Some(found.chain().certificate());
        self.foreign = foreign_to(wanted, found.as_ref().filter(held).map(Arc::as_ref)).map(Arc::from);
        found.filter(|_| self.foreign.is_none() || template.is_some())
    }

    fn finished(
        &mut self,
        asking: Asking,
        result: Result<Issued, SignError>,
        candidate: &mut Option<Arc<Credential>>,
    ) -> VecDeque<Event> {
        let id = asking.id;
        let error = match result.map(|issued| self.joined(issued.chain, &asking)) {
            Ok(Ok(credential)) => {
                let certificate = credential.chain().certificate().clone();
                *candidate = Some(Arc::new(credential));
                return VecDeque::from([Event::CsrIssued { id, certificate }]);
            }
            Ok(Err(why)) => {
                self.request_error = Some(why.into());
                let failure = Failure::BadCertificate;
                return VecDeque::from([Event::CsrFailed { id, failure, retry_after: None }]);
            }
            Err(error) => error,
        };
        self.request_error = Some(error.to_string().into());
        let disowned = error.credential_refused || error.failure == Failure::Unauthorized;
        let refused = asking.shown.filter(|_| disowned);
        if refused.is_some() && self.has_bootstrap() {
            self.request_error = Some(format!("{error}; the bootstrap credential is used next").into());
        }
        if disowned || error.failure == Failure::Forbidden {
            // If it was the bootstrap identity, our own gets another chance: it may be the only one there is.
            self.refused = refused;
        }
        let failed = Event::CsrFailed { id, failure: error.failure, retry_after: error.retry_after };
        refused.map(|fingerprint| Event::CertRefused { fingerprint }).into_iter().chain([failed]).collect()
    }

    /// The issued pair, unless it grants rights beyond the request.
    fn joined(&self, chain: Chain, asking: &Asking) -> Result<Credential, String> {
        let profile = self.signer.as_ref().map(|signer| signer.profile());
        if let Some(profile) = profile.filter(|profile| !profile.accepts_extra_rights) {
            excess(&chain, &asking.template, profile.usage).map_or(Ok(()), Err)?;
        }
        // The exchange has checked that; if it ever did not, this is as bad a certificate as any.
        Credential::new(chain, asking.key.clone()).map_err(|mismatch| mismatch.to_string())
    }

    /// Begins a request: a key, a PKCS#10 request signed with it, and an identity to show.
    fn ask(&mut self, id: RequestId, template: &Arc<Template>, key: Key, now: Now) -> Result<Exchange, SignError> {
        self.memory.submitted(id);
        let signer = self.signer.clone().ok_or_else(|| local("rotation is not enabled: there is no signer"))?;
        let profile = signer.profile();
        let key = match (key, &self.pending) {
            (Key::Pending, Some(pending)) => pending.clone(),
            (Key::Pending, None) | (Key::New, _) => {
                // Spent, even if there is none to follow it.
                self.pending = None;
                let fresh = KeyPair::generate(profile.key_algorithm).map_err(local)?;
                self.pending.insert(Arc::new(fresh)).clone()
            }
        };
        let csr = certificate_request(template, &key).map_err(local)?;
        self.csr_name = signer.request_name(template, key.public_key_der());
        let (identity, shown) = self.identity(signer.authentication(), now).map_err(local)?;
        let left = self.machine.certificate_at(now.unix).map(|held| held.validity.not_after().since(now.unix));
        let request = SignRequest {
            name: self.csr_name.clone(),
            template: template.clone(),
            csr,
            public_key_der: key.public_key_der().to_vec(),
            identity,
            usage: profile.usage,
            lifetime: profile.lifetime,
            skew: profile.skew.saturating_add(self.local_lead(now)),
            issuers: profile.issuers.clone(),
            needed_by: now.instant.after(left.unwrap_or_default()),
            timeout: match self.machine.state() {
                State::Requesting { until, .. } => until.since(now.instant),
                _ => Duration::ZERO,
            },
            seed: self.seed ^ id.get(),
        };
        self.bootstrapping = shown.is_none() && self.has_bootstrap();
        self.asking = Some(Asking { id, template: template.clone(), key, shown, progress: None });
        signer.begin(request, now)
    }

    /// How far our clock is ahead by the last answer, or by those that agreed: a certificate that has expired by ours alone
    /// is the machine's to judge, which wants more answers than one.
    fn local_lead(&self, now: Now) -> Duration {
        let date = self.health.and_then(|health| health.date);
        let last = date.map(|ServerDate { unix, at }| unix.after(now.instant.since(at)));
        let shown = [last, self.machine.server_time(now)].into_iter().flatten();
        shown.map(|server| now.unix.since(server)).max().unwrap_or_default()
    }

    fn has_bootstrap(&self) -> bool {
        let authentication = self.signer.as_ref().map(|signer| signer.authentication());
        matches!(authentication, Some(Authentication::Own { bootstrap: Some(_) }))
    }

    /// Our own certificate while it is of use; else whatever was given for that case.
    fn identity(&self, authentication: &Authentication, now: Now) -> Result<(Identity, Option<Fingerprint>), NotYet> {
        let bootstrap = match authentication {
            Authentication::None => return Ok((Identity::Anonymous, None)),
            Authentication::Other(source) => return Ok((source.identity()?, None)),
            Authentication::Own { bootstrap } => bootstrap,
        };
        let valid = self.served.as_ref().filter(|_| self.machine.valid_by_either_clock(now).is_some());
        let fingerprint = |own: &Arc<Credential>| own.chain().certificate().fingerprint;
        let accepted = valid.filter(|own| self.refused != Some(fingerprint(own)));
        match (accepted, bootstrap, valid) {
            (Some(own), _, _) | (None, None, Some(own)) => {
                Ok((Identity::Certificate(own.clone()), Some(fingerprint(own))))
            }
            (None, Some(source), _) => match (source.identity(), valid) {
                (Ok(identity), _) => Ok((identity, None)),
                // Better turned down once more than not to ask at all.
                (Err(_), Some(own)) => Ok((Identity::Certificate(own.clone()), Some(fingerprint(own)))),
                (Err(why), None) => Err(why),
            },
            (None, None, None) => {
                Err(NotYet::new("there is no valid certificate to ask with, and no bootstrap credential: give one"))
            }
        }
    }
}

/// The request cannot be made here, whatever the signer thinks of it.
fn local(why: impl ToString) -> SignError {
    SignError::new(Failure::Local, why.to_string())
}

/// Whose certificate this is about. Without a template, the one at hand says who we are.
fn name_of<'a>(template: Option<&'a Template>, credential: Option<&'a Credential>) -> Option<&'a str> {
    let held = credential.map(|credential| credential.chain().certificate().common_name.as_str());
    template.map(Template::common_name).or(held)
}

/// The error for a credential with another common name than the wanted one; `None` if the names agree.
fn foreign_to(wanted: Option<&str>, found: Option<&Credential>) -> Option<String> {
    let (wanted, found) = wanted.zip(found.map(|found| found.chain().certificate()))?;
    (found.common_name != wanted).then(|| foreign(found, wanted))
}

/// Whether a record is about what is wanted now.
fn is_of_use(record: &Record, signer: Option<&dyn Signer>, named: Option<&str>) -> bool {
    let asked = signer.is_some_and(|signer| {
        let fits = |key: &Arc<KeyPair>| key.algorithm() == signer.profile().key_algorithm;
        // What another server refused, or was asked for often enough, this one was not. If it is the same by another
        // URL, that costs it one more object.
        let same_server = record.server.is_none() || record.server == signer.endpoint();
        same_server && record.signer_name == signer.name() && record.key.as_ref().is_none_or(fits)
    });
    asked && named.is_none_or(|name| name == record.pending.template.common_name())
}
