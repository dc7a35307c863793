//! One request: its key, its identity, its exchange, and the events for the machine that follow from its result.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Event, Failure, Fingerprint, Key, Now, RequestId, State, Template, TemplateError, printable};
use perennial_pki::{CertificateRequest, Chain, Credential, Expected, KeyAlgorithm, KeyPair, certificate_request};

use super::addressee::Addressee;
use super::shortfall::excess;
use super::start::foreign_to;
use super::{Command, Rotation};
use crate::exchange::contain;
use crate::{
    Authentication, Exchange, Identity, Issued, NotYet, Profile, Progress, ServerDate, SignError, SignRequest, Signer,
};

/// The request in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: RequestId,
    pub(super) template: Arc<Template>,
    key: Arc<KeyPair>,
    /// The identity that the request authenticates with.
    identity: Identity,
    /// The fingerprint of the own certificate, if the own certificate is the identity; else `None`.
    own: Option<Fingerprint>,
    pub(super) progress: Option<Progress>,
}

impl Rotation {
    /// Translates the result of an exchange into events of the machine. Puts an issued pair that is usable into
    /// `candidate`.
    pub(super) fn finished(
        &mut self,
        in_flight: InFlight,
        result: Result<Issued, SignError>,
        candidate: &mut Option<Arc<Credential>>,
        now: Now,
    ) -> VecDeque<Event> {
        let id = in_flight.id;
        let checked = |issued: Issued| (self.checked_pair(issued.chain, &in_flight, now), issued.renewal);
        let error = match result.map(checked) {
            Ok((Ok(credential), renewal)) => {
                let certificate = credential.chain().certificate().clone();
                *candidate = Some(Arc::new(credential));
                let fingerprint = certificate.fingerprint;
                let hinted = renewal.map(|hint| Event::RenewalHinted { fingerprint, hint });
                return [Event::CsrIssued { id, certificate }].into_iter().chain(hinted).collect();
            }
            Ok((Err(why), _)) => {
                self.request_error = Some(why.into());
                let failure = Failure::BadCertificate;
                return VecDeque::from([Event::CsrFailed { id, failure, retry_after: None }]);
            }
            Err(error) => error,
        };
        self.request_error = Some(error.to_string().into());
        let is_identity_refused = error.credential_refused || error.failure == Failure::Unauthorized;
        let refused = in_flight.own.filter(|_| is_identity_refused);
        if let (true, None, Some(source)) = (is_identity_refused, in_flight.own, self.identity_source()) {
            source.identity_refused(&in_flight.identity);
        }
        if refused.is_some() && self.has_bootstrap() {
            self.request_error = Some(format!("{error}; the next request uses the bootstrap credential").into());
        }
        if is_identity_refused || error.failure == Failure::Forbidden {
            // If the bootstrap identity was rejected, our own certificate is tried again: nothing else may be left.
            self.refused = refused.map(Box::new);
        }
        let failure = self.tries_other_key(&error).unwrap_or(error.failure);
        let failed = Event::CsrFailed { id, failure, retry_after: error.retry_after };
        refused.map(|fingerprint| Event::CertRefused { fingerprint }).into_iter().chain([failed]).collect()
    }

    /// If the signer has refused the key, but accepts keys of another kind that the profile allows, lets the next request
    /// have such a key, and returns the failure to report. Only one other kind is tried, so that a signer that names a
    /// new kind each time is not asked without end.
    fn tries_other_key(&mut self, error: &SignError) -> Option<Failure> {
        let (accepted, profile) = (error.accepted_key?, self.signer.as_ref()?.profile());
        let is_allowed = profile.other_key_algorithms.contains(&accepted) && profile.key_algorithm != accepted;
        if !is_allowed || self.other_key.is_some() {
            return None;
        }
        self.other_key = Some(accepted);
        self.request_error = Some(format!("{error}; the next request has a key of the kind {accepted}").into());
        Some(Failure::UnsupportedKey)
    }

    /// The algorithm of the key of the next request to `signer`.
    pub(super) fn key_algorithm(&self, signer: &dyn Signer) -> KeyAlgorithm {
        let profile = signer.profile();
        self.other_key.filter(|other| profile.allows(*other)).unwrap_or(profile.key_algorithm)
    }

    /// Joins the issued chain with its key, if the chain is usable and grants no rights beyond the request. The machine
    /// judges names and lifetime.
    fn checked_pair(&self, mut chain: Chain, in_flight: &InFlight, now: Now) -> Result<Credential, String> {
        let signer = self.signer.as_ref().ok_or("rotation is not enabled any more")?;
        let profile = signer.profile();
        let (public_key_der, roots) = (in_flight.key.public_key_der(), profile.issuers.as_ref());
        // This skew includes the lead of the local clock over the signer's clock: see `local_lead`.
        let skew = self.skew(profile, now);
        let expected = Expected { public_key_der, usages: &profile.usages, skew, roots };
        expected.check(&chain, now.unix).map_err(|error| self.at_fault(&**signer, error))?;
        if !profile.accepts_extra_rights && !in_flight.template.is_empty() {
            excess(&chain, &in_flight.template).map_or(Ok(()), Err)?;
        }
        chain.share_names(&in_flight.template);
        Credential::new(chain, in_flight.key.clone()).map_err(|mismatch| mismatch.to_string())
    }

    /// Prefixes an error with the name of the request (the name of the signer if the request has no name), and with the
    /// signer's endpoint if it has one.
    fn at_fault(&self, signer: &dyn Signer, error: impl fmt::Display) -> String {
        match (&*self.request_name, signer.endpoint()) {
            ("", None) => format!("signer {}: {error}", printable(signer.name())),
            ("", Some(endpoint)) => format!("signer {} at {endpoint}: {error}", printable(signer.name())),
            (name, None) => format!("request {}: {error}", printable(name)),
            (name, Some(endpoint)) => format!("request {} at {endpoint}: {error}", printable(name)),
        }
    }

    /// Begins a request: adds the commands to save the record and to drive the exchange or, if keys stay elsewhere or take
    /// long to generate, the command to make the key first. If the request cannot begin, returns the event of its failure
    /// instead.
    pub(super) fn submit(
        &mut self,
        id: RequestId,
        template: &Arc<Template>,
        key: Key,
        commands: &mut Vec<Command>,
        now: Now,
    ) -> Option<Event> {
        self.saving.submission = Some(id);
        if key == Key::New {
            // Dropped before a new key is made: the old key is spent, even if making the new key fails.
            self.pending = None;
        }
        let source = self.keys.as_ref().map(|keys| keys.source.clone());
        let is_slow = |signer: &Arc<dyn Signer>| self.key_algorithm(&**signer).is_rsa();
        // A loop that generated an RSA key would hold up all other certificates of its fleet.
        if source.is_some() || self.pending.is_none() && self.signer.as_ref().is_some_and(is_slow) {
            return match self.call_of(source, id, template) {
                Ok(call) => {
                    commands.push(Command::Key { id, call });
                    None
                }
                Err(error) => Some(self.failed(id, error)),
            };
        }
        let prepared = self.prepare(template);
        self.drive(id, template, prepared, commands, now)
    }

    /// Begins the exchange of a request that has this key and this CSR: adds the commands to save the record and to
    /// drive the exchange. If the request cannot begin, returns the event of its failure instead.
    pub(super) fn drive(
        &mut self,
        id: RequestId,
        template: &Arc<Template>,
        prepared: Result<(Arc<KeyPair>, CertificateRequest), SignError>,
        commands: &mut Vec<Command>,
        now: Now,
    ) -> Option<Event> {
        // The signer and its identity source may be code of another party, which may panic.
        let begin = |(key, csr)| contain(|| self.begin(id, template, key, csr, now)).flatten();
        match prepared.and_then(begin) {
            Ok(exchange) => {
                // Save first: a restart can continue a request only if its key was durable before the CSR was
                // submitted.
                commands.extend(self.save(now));
                commands.push(Command::Drive { id, exchange: exchange.contained() });
                None
            }
            Err(error) => Some(self.failed(id, error)),
        }
    }

    /// Returns the event of a request that fails before its exchange begins.
    pub(super) fn failed(&mut self, id: RequestId, error: SignError) -> Event {
        self.in_flight = None;
        self.health = error.health.or(self.health);
        let SignError { failure, retry_after, message, .. } = error;
        self.request_error = Some(message.into());
        Event::CsrFailed { id, failure, retry_after }
    }

    /// Returns the signer, and notes it as the addressee of the request that begins now.
    ///
    /// # Errors
    /// There is no signer.
    pub(super) fn address(&mut self) -> Result<Arc<dyn Signer>, SignError> {
        let signer = self.signer.clone().ok_or_else(|| local("rotation is not enabled: there is no signer"))?;
        self.addressee = Some(Addressee::Current);
        Ok(signer)
    }

    /// Takes the pending key or generates one, and signs a CSR (PKCS#10) with it.
    fn prepare(&mut self, template: &Template) -> Result<(Arc<KeyPair>, CertificateRequest), SignError> {
        let signer = self.address()?;
        let algorithm = self.key_algorithm(&*signer);
        let key = match &self.pending {
            Some(pending) => pending.clone(),
            None => self.pending.insert(Arc::new(KeyPair::generate(algorithm).map_err(local)?)).clone(),
        };
        let csr = certificate_request(template, &key).map_err(local)?;
        Ok((key, csr))
    }

    /// Reads the identity, and has the signer begin the exchange.
    fn begin(
        &mut self,
        id: RequestId,
        template: &Arc<Template>,
        key: Arc<KeyPair>,
        csr: CertificateRequest,
        now: Now,
    ) -> Result<Exchange, SignError> {
        let signer = self.address()?;
        if template.is_empty() && !signer.chooses_names() {
            return Err(SignError::new(Failure::Rejected, TemplateError::Empty.to_string()));
        }
        let profile = signer.profile();
        self.request_name = signer.request_name(template, key.public_key_der()).into();
        let found = self.found_identity.take();
        let found = found.map_or_else(|| self.identity(signer.authentication(), now), |found| *found);
        let (identity, own) = found.map_err(local)?;
        let left = self.machine.certificate_at(now.unix).map(|held| held.validity.not_after().since(now.unix));
        let request = SignRequest {
            name: self.request_name.to_string(),
            template: template.clone(),
            csr,
            public_key_der: key.public_key_der().to_vec(),
            identity: identity.clone(),
            usages: profile.usages.clone(),
            lifetime: profile.lifetime,
            skew: self.skew(profile, now),
            needed_by: now.instant.after(left.unwrap_or_default()),
            timeout: match self.machine.state() {
                State::Requesting { until, .. } => until.since(now.instant),
                _ => Duration::ZERO,
            },
            seed: self.seed() ^ id.get(),
        };
        self.bootstrapping = own.is_none() && self.has_bootstrap();
        self.in_flight =
            Some(Box::new(InFlight { id, template: template.clone(), key, identity, own, progress: None }));
        signer.begin(request, now)
    }

    /// How far the local clock may be past notAfter before an issued certificate counts as expired: [`Profile::skew`]
    /// plus the known lead of the local clock.
    fn skew(&self, profile: &Profile, now: Now) -> Duration {
        profile.skew.saturating_add(self.local_lead(now))
    }

    /// How far the local clock is ahead of the server's clock: the lead by the last answer, or the lead by the answers
    /// that agreed, whichever is greater. Too large a lead does no harm: the machine checks the certificate again, and
    /// uses the server's clock once three answers agree.
    fn local_lead(&self, now: Now) -> Duration {
        let date = self.health.and_then(|health| health.date);
        let last = date.map(|ServerDate { unix, at }| unix.after(now.instant.since(at)));
        let server_times = [last, self.machine.server_time(now)].into_iter().flatten();
        server_times.map(|server| now.unix.since(server)).max().unwrap_or_default()
    }

    pub(super) fn has_bootstrap(&self) -> bool {
        let authentication = self.signer.as_ref().map(|signer| signer.authentication());
        matches!(authentication, Some(Authentication::Own { bootstrap: Some(_) }))
    }

    /// Chooses the identity of a request; also returns the own certificate's fingerprint if the own certificate is
    /// chosen. The first choice is the own certificate, if it is valid, has the wanted common name, and no server
    /// rejected it. The second choice is the bootstrap identity; the third, any valid own certificate.
    ///
    /// # Errors
    /// [`NotYet`]: there is no identity.
    pub(super) fn identity(
        &self,
        authentication: &Authentication,
        now: Now,
    ) -> Result<(Identity, Option<Fingerprint>), NotYet> {
        let bootstrap = match authentication {
            Authentication::None => return Ok((Identity::Anonymous, None)),
            Authentication::Other(source) => return Ok((source.identity()?, None)),
            Authentication::Own { bootstrap } => bootstrap,
        };
        let valid = self.served.as_ref().filter(|_| self.machine.valid_by_either_clock(now).is_some());
        let fingerprint = |own: &Arc<Credential>| own.chain().certificate().fingerprint;
        // A request for one party never authenticates with the certificate of another.
        let wanted = self.machine.template().and_then(|template| template.wanted_common_name());
        let is_accepted = |own: &&Arc<Credential>| {
            self.refused.as_deref() != Some(&fingerprint(own)) && foreign_to(wanted, Some(own)).is_none()
        };
        let accepted = valid.filter(is_accepted);
        match (accepted, bootstrap, valid) {
            (Some(own), _, _) | (None, None, Some(own)) => {
                Ok((Identity::Certificate(own.clone()), Some(fingerprint(own))))
            }
            (None, Some(source), _) => match (source.identity(), valid) {
                (Ok(identity), _) => Ok((identity, None)),
                // A request that may be rejected again is better than none.
                (Err(_), Some(own)) => Ok((Identity::Certificate(own.clone()), Some(fingerprint(own)))),
                (Err(why), None) => Err(why),
            },
            (None, None, None) => Err(NotYet::new(
                "no identity for the request: there is no valid certificate and no bootstrap credential; provide a \
                     bootstrap credential",
            )),
        }
    }
}

/// Makes the error of a request that fails in this process, before the request reaches the signer.
pub(super) fn local(why: impl ToString) -> SignError {
    SignError::new(Failure::Local, why.to_string())
}
