//! The machine with its hands: [`RotationMachine`] joined to keys, requests and the Kubernetes exchange. Still sans-IO.
//!
//! A runtime reports what happened ([`Input`]) and carries out four kinds of [`Duty`]: drive an
//! exchange, drop it, write a file, set a timer. Which key, which credential to ask with, whether an
//! issued certificate is served: that is settled here, once, for every runtime.

mod signer;
mod terms;

use std::collections::VecDeque;
use std::sync::Arc;

use perennial::{
    Action, Event, Failure, Fingerprint, Instant, Key, Now, Policy, RequestId, RotationMachine, Setup, State, Template,
};
use perennial_pki::{Credential, KeyPair, certificate_request};

use crate::client::{Ask, CsrError, Issuance, Issued, Progress, csr_name};
use crate::cluster::Identity;

pub use signer::{AskAs, IdentitySource, Signer};
pub use terms::{Duty, Input, Snapshot};

/// What a rotation starts from.
#[derive(Debug)]
pub struct Start {
    /// The numbers to go by.
    pub policy: Arc<Policy>,
    /// Who to ask. `None`: rotation is not enabled, what is there is served.
    pub signer: Option<Signer>,
    /// The identity wanted.
    pub template: Option<Arc<Template>>,
    /// The credential at hand.
    pub credential: Option<Arc<Credential>>,
}

/// One rotated certificate: decisions, keys and requests, without any I/O.
#[derive(Debug)]
pub struct Rotation {
    machine: RotationMachine,
    signer: Option<Arc<Signer>>,
    seed: u64,
    served: Option<Arc<Credential>>,
    pending: Option<Arc<KeyPair>>,
    /// The exchange that is out: with which key, and which of our own certificates it shows.
    asking: Option<Asking>,
    /// Our own certificate, if it was turned down and the bootstrap identity has not been since.
    refused: Option<Fingerprint>,
    /// As long as the machine remembers a failure.
    request_error: Option<Arc<str>>,
    /// As long as the credential is unwritten.
    write_error: Option<Arc<str>>,
    issued: u64,
}

#[derive(Debug)]
struct Asking {
    id: RequestId,
    key: Arc<KeyPair>,
    shown: Option<Fingerprint>,
    progress: Option<Progress>,
}

impl Rotation {
    /// A rotation that wants its first Tick at `now`.
    pub fn new(start: Start, now: Now) -> Self {
        let Start { policy, signer, template, credential } = start;
        let seed = seed_of(signer.as_ref(), template.as_deref(), credential.as_deref());
        let setup = Setup {
            policy,
            seed,
            signer: signer.is_some(),
            template,
            certificate: credential.as_ref().map(|credential| credential.chain().certificate().clone()),
            pending: None,
        };
        Self {
            machine: RotationMachine::new(setup, now),
            signer: signer.map(Arc::new),
            seed,
            served: credential,
            pending: None,
            asking: None,
            refused: None,
            request_error: None,
            write_error: None,
            issued: 0,
        }
    }

    /// When the next [`Input::Tick`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        self.machine.deadline()
    }

    /// The machine, to look at.
    pub fn machine(&self) -> &RotationMachine {
        &self.machine
    }

    /// What a crash would lose. Before ending, try once more to write it: its key is nowhere else.
    pub fn unwritten(&self) -> Option<&Arc<Credential>> {
        self.served.as_ref().filter(|_| self.machine.is_unwritten())
    }

    /// Everything people may want to know.
    pub fn snapshot(&self, now: Now) -> Snapshot {
        Snapshot {
            credential: self.served.clone(),
            state: self.machine.state(),
            due: self.machine.due(now),
            unwritten: self.machine.is_unwritten(),
            progress: self.asking.as_ref().and_then(|asking| asking.progress.clone()),
            last_error: self.request_error.as_ref().or(self.write_error.as_ref()).cloned(),
            issued: self.issued,
            at: now,
        }
    }

    /// Takes in what happened; returns what is to be done, in order.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Duty> {
        let mut duties = Vec::new();
        let mut candidate = None;
        let mut events = self.translate(input, &mut candidate);
        while let Some(event) = events.pop_front() {
            let issued = matches!(event, Event::CsrIssued { .. });
            let actions = self.machine.handle(event, now);
            self.look_at(&mut candidate, issued);
            for action in actions {
                match action {
                    Action::CancelRequest { id } => {
                        let dropped = self.asking.take_if(|asking| asking.id == id);
                        self.explain_timeout(dropped);
                        duties.push(Duty::Drop { id });
                    }
                    Action::WriteCert { id, .. } => {
                        let credential = self.served.clone();
                        duties.extend(credential.map(|credential| Duty::Write { id, credential }));
                    }
                    Action::SubmitCsr { id, template, key } => match self.ask(id, &template, key, now) {
                        Ok(exchange) => duties.push(Duty::Drive { id, exchange: Box::new(exchange) }),
                        Err(why) => {
                            self.request_error = Some(why.into());
                            events.push_back(Event::CsrFailed { id, failure: Failure::Local, retry_after: None });
                        }
                    },
                    Action::SetTimer(at) => duties.push(Duty::SetTimer(at)),
                }
            }
        }
        self.request_error.take_if(|_| self.machine.last_failure().is_none());
        self.write_error.take_if(|_| !self.machine.is_unwritten());
        duties
    }

    /// Serves the pair the machine has just decided to hold, or says why an issued one is not good enough.
    fn look_at(&mut self, candidate: &mut Option<Arc<Credential>>, issued: bool) {
        let held = self.machine.certificate().map(|held| held.fingerprint);
        if let Some(accepted) = candidate.take_if(|new| Some(new.chain().certificate().fingerprint) == held) {
            self.served = Some(accepted);
            self.issued += u64::from(issued);
        }
        if let Some(failure) = self.machine.last_failure().filter(|_| issued) {
            self.request_error = Some(failure.describe().into());
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
    fn translate(&mut self, input: Input, candidate: &mut Option<Arc<Credential>>) -> VecDeque<Event> {
        let event = match input {
            Input::Tick => Event::Tick,
            Input::TemplateChanged(template) => Event::TemplateChanged(template),
            Input::RotateNow => Event::RotateNow,
            Input::Progressed { id, progress } => {
                if let Some(asking) = self.asking.as_mut().filter(|asking| asking.id == id) {
                    asking.progress = Some(progress);
                }
                return VecDeque::new();
            }
            Input::Finished { id, result } => {
                let Some(asking) = self.asking.take_if(|asking| asking.id == id) else { return VecDeque::new() };
                return self.finished(asking, result, candidate);
            }
            Input::Unable { id, why } => {
                self.asking.take_if(|asking| asking.id == id);
                self.request_error = Some(why.into());
                Event::CsrFailed { id, failure: Failure::Local, retry_after: None }
            }
            Input::Written { id, result: Ok(()) } => {
                // Durable: what was pending is now served.
                let served = self.served.as_ref().map(|credential| credential.key());
                self.pending.take_if(|pending| served.is_some_and(|key| Arc::ptr_eq(key, pending)));
                Event::CertWritten { id }
            }
            Input::Written { id, result: Err(why) } => {
                self.write_error = Some(why.into());
                Event::WriteFailed { id }
            }
            Input::Replaced(found) => {
                candidate.clone_from(&found);
                Event::CertReplaced(found.map(|credential| credential.chain().certificate().clone()))
            }
        };
        VecDeque::from([event])
    }

    fn finished(
        &mut self,
        asking: Asking,
        result: Result<Issued, CsrError>,
        candidate: &mut Option<Arc<Credential>>,
    ) -> VecDeque<Event> {
        let id = asking.id;
        let error = match result.map(|issued| Credential::new(issued.chain, asking.key)) {
            Ok(Ok(credential)) => {
                let certificate = credential.chain().certificate().clone();
                *candidate = Some(Arc::new(credential));
                return VecDeque::from([Event::CsrIssued { id, certificate }]);
            }
            // The exchange has checked that; if it ever did not, this is as bad a certificate as any.
            Ok(Err(mismatch)) => {
                self.request_error = Some(mismatch.to_string().into());
                let failure = Failure::BadCertificate;
                return VecDeque::from([Event::CsrFailed { id, failure, retry_after: None }]);
            }
            Err(error) => error,
        };
        self.request_error = Some(error.to_string().into());
        let disowned = error.credential_refused || error.failure == Failure::Unauthorized;
        let refused = asking.shown.filter(|_| disowned);
        if disowned || error.failure == Failure::Forbidden {
            // If it was the bootstrap identity, our own gets another chance: it may be the only one there is.
            self.refused = refused;
        }
        let failed = Event::CsrFailed { id, failure: error.failure, retry_after: error.retry_after };
        refused.map(|fingerprint| Event::CertRefused { fingerprint }).into_iter().chain([failed]).collect()
    }

    /// Makes an exchange: a key, a request signed with it, and somebody to be.
    fn ask(&mut self, id: RequestId, template: &Template, key: Key, now: Now) -> Result<Issuance, String> {
        let signer = self.signer.clone().ok_or("rotation is not enabled: there is no signer")?;
        let key = match (key, &self.pending) {
            (Key::Pending, Some(pending)) => pending.clone(),
            (Key::Pending, None) | (Key::New, _) => {
                // Spent, even if there is none to follow it.
                self.pending = None;
                let fresh = KeyPair::generate(signer.key_algorithm).map_err(|error| error.to_string())?;
                self.pending.insert(Arc::new(fresh)).clone()
            }
        };
        let request = certificate_request(template, &key).map_err(|error| error.to_string())?;
        let (identity, shown) = self.identity(&signer, now)?;
        let usages = signer.usages();
        let ask = Ask {
            name: csr_name(key.public_key_der(), template.common_name(), template.organizations(), &usages),
            request,
            public_key_der: key.public_key_der().to_vec(),
            signer_name: signer.signer_name.clone(),
            usages,
            expiration_seconds: signer.expiration.map(|span| i32::try_from(span.as_secs()).unwrap_or(i32::MAX)),
            usage: signer.usage,
            skew: signer.skew,
            roots: signer.issuers.clone(),
        };
        self.asking = Some(Asking { id, key, shown, progress: None });
        let seed = self.seed ^ id.get();
        Ok(Issuance::new(ask, signer.cluster.clone(), identity, signer.limits, seed))
    }

    /// Our own certificate while it is of use; else whatever was given for that case.
    fn identity(&self, signer: &Signer, now: Now) -> Result<(Identity, Option<Fingerprint>), String> {
        let bootstrap = match &signer.ask_as {
            AskAs::Other(source) => return Ok((source()?, None)),
            AskAs::Own { bootstrap } => bootstrap,
        };
        let valid = self.served.as_ref().filter(|_| self.machine.certificate_at(now.unix).is_some());
        let fingerprint = |own: &Arc<Credential>| own.chain().certificate().fingerprint;
        let accepted = valid.filter(|own| self.refused != Some(fingerprint(own)));
        match (accepted, bootstrap, valid) {
            (Some(own), _, _) | (None, None, Some(own)) => {
                Ok((Identity::Certificate(own.clone()), Some(fingerprint(own))))
            }
            (None, Some(source), _) => match (source(), valid) {
                (Ok(identity), _) => Ok((identity, None)),
                // Better turned down once more than not to ask at all.
                (Err(_), Some(own)) => Ok((Identity::Certificate(own.clone()), Some(fingerprint(own)))),
                (Err(why), None) => Err(why),
            },
            (None, None, None) => {
                Err("there is no valid certificate to ask with, and no bootstrap credential: give one".into())
            }
        }
    }
}

/// What restarts, and tools that look at a directory, agree on: who signs, and for whom. Without a
/// template, the certificate at hand says who we are.
fn seed_of(signer: Option<&Signer>, template: Option<&Template>, credential: Option<&Credential>) -> u64 {
    let signer_name = signer.map_or("", |signer| &signer.signer_name);
    let common_name = template.map(Template::common_name);
    let held = credential.map(|credential| credential.chain().certificate().common_name.as_str());
    perennial::seed(signer_name, common_name.or(held).unwrap_or(""))
}
