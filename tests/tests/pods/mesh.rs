//! A signer that chooses the names of certificates by their pods, and the virtual time of a fleet.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use perennial::{Failure, Now, Template, UnixTime, Validity};
use perennial_kubernetes::PodIdentity;
use perennial_kubernetes::pods::{PodCertificateSource, PodCertificates};
use perennial_pki::{
    Credential, Issuer, KeyAlgorithm, KeyPair, Roots, Terms, certificate_request, read_request, self_signed,
};
use perennial_rotation::{
    Authentication, Cancel, Exchange, Fleet, FleetTask, Issued, Limits, Profile, Reporter, SignError, SignRequest,
    Signer, Work, clock,
};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// The answer of a signer to each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Answer {
    #[default]
    Issue,
    Deny,
    Fail,
    Unreachable,
    /// No answer.
    Silent,
}

/// A request that a signer has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) signer: String,
    pub(crate) pod: String,
    pub(crate) name: String,
    pub(crate) key_type: KeyAlgorithm,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// A CA that all signers share.
#[derive(Debug)]
pub(crate) struct Mesh {
    issuer: Issuer,
    /// By the name of the signer.
    answers: Mutex<HashMap<String, Answer>>,
    asked: Mutex<Vec<Asked>>,
    now: Mutex<Option<UnixTime>>,
}

impl Mesh {
    pub(crate) fn new() -> Arc<Self> {
        let key = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let begin = clock::now().unix.before(DAY);
        let validity = Validity::new(begin, begin.after(365 * DAY)).unwrap();
        let chain = self_signed("mesh", &key, &[1], validity).unwrap();
        let issuer = Issuer::new(Credential::new(chain, key).unwrap()).unwrap();
        Arc::new(Self { issuer, answers: Mutex::default(), asked: Mutex::default(), now: Mutex::default() })
    }

    pub(crate) fn answer(&self, signer: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(signer.into(), answer);
    }

    /// The requests since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::from_pem(self.issuer.credential().chain().pem().as_bytes()).unwrap()
    }

    pub(crate) fn signer(self: &Arc<Self>, pod: &PodIdentity, source: &PodCertificateSource) -> Arc<dyn Signer> {
        let profile = Profile { key_algorithm: source.key_type, lifetime: source.max_expiration, ..Profile::new([]) };
        Arc::new(MeshSigner {
            mesh: self.clone(),
            pod: pod.clone(),
            source: source.clone(),
            profile,
            authentication: Authentication::None,
        })
    }

    fn now(&self) -> UnixTime {
        self.now.lock().unwrap().unwrap_or_else(|| clock::now().unix)
    }

    fn issue(&self, request: &SignRequest, pod: &PodIdentity) -> Issued {
        let stub = read_request(request.csr.pem.as_bytes()).unwrap();
        let own = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let names =
            Template::new(&pod.name).with_uris([format!("spiffe://mesh/ns/{}/pod/{}", pod.namespace, pod.name)]);
        let mut facts = read_request(certificate_request(&names, &own).unwrap().pem.as_bytes()).unwrap();
        facts.public_key_der = stub.public_key_der;
        let begin = self.now();
        let validity = Validity::new(begin, begin.after(request.lifetime.unwrap_or(DAY))).unwrap();
        let terms = Terms { serial: &[7], validity, key_usages: &[], extended_key_usages: &[] };
        self.issuer.issue(&facts, &terms).unwrap().into()
    }
}

#[derive(Debug)]
struct MeshSigner {
    mesh: Arc<Mesh>,
    pod: PodIdentity,
    source: PodCertificateSource,
    profile: Profile,
    authentication: Authentication,
}

impl Signer for MeshSigner {
    fn name(&self) -> &str {
        &self.source.signer_name
    }

    fn endpoint(&self) -> Option<String> {
        Some("mesh".into())
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn authentication(&self) -> &Authentication {
        &self.authentication
    }

    fn chooses_names(&self) -> bool {
        true
    }

    fn request_name(&self, _: &Template, public_key_der: &[u8]) -> String {
        let tail: String =
            public_key_der[public_key_der.len() - 8..].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("req-{tail}")
    }

    fn begin(&self, request: SignRequest, _: Now) -> Result<Exchange, SignError> {
        self.mesh.asked.lock().unwrap().push(Asked {
            signer: self.source.signer_name.clone(),
            pod: self.pod.uid.clone(),
            name: request.name.clone(),
            key_type: self.source.key_type,
            annotations: self.source.user_annotations.clone(),
        });
        let answer = self.mesh.answers.lock().unwrap().get(&self.source.signer_name).copied().unwrap_or_default();
        let refused = |failure, text: &str| Err(SignError::new(failure, text));
        let result = match answer {
            Answer::Issue => Ok(self.mesh.issue(&request, &self.pod)),
            Answer::Deny => refused(Failure::Denied, "not this pod"),
            Answer::Fail => refused(Failure::SignerFailed, "the HSM is on fire"),
            Answer::Unreachable => refused(Failure::Unreachable, "no route"),
            Answer::Silent => return Ok(Exchange::future(std::future::pending())),
        };
        Ok(Exchange::blocking(move |_| result))
    }
}

/// The pods of a node in virtual time.
pub(crate) struct Life {
    pub(crate) pods: PodCertificates,
    pub(crate) mesh: Arc<Mesh>,
    task: FleetTask,
    now: Now,
    /// The reporters of exchanges without an answer.
    silent: Vec<Reporter>,
}

impl Life {
    pub(crate) fn new(state: &std::path::Path, mesh: &Arc<Mesh>, limits: Limits, now: Now) -> Self {
        let (fleet, task) = Fleet::prepare(limits);
        let signers = mesh.clone();
        let pods =
            PodCertificates::with_signers(fleet, state, move |pod, source| match source.signer_name.contains('/') {
                true => Ok(signers.signer(pod, source)),
                false => Err("the name of a signer has a domain".into()),
            });
        Self { pods, mesh: mesh.clone(), task, now, silent: Vec::new() }
    }

    pub(crate) fn now(&self) -> UnixTime {
        self.now.unix
    }

    pub(crate) const fn clock(&self) -> Now {
        self.now
    }

    /// Steps until no message is left, and carries all work out.
    pub(crate) fn step(&mut self) {
        *self.mesh.now.lock().unwrap() = Some(self.now.unix);
        loop {
            for (_, work) in self.task.step(self.now) {
                match work {
                    Work::Drive(Exchange::Blocking(work), reporter) => reporter.finish(work(&Cancel::default())),
                    Work::Drive(_, reporter) => self.silent.push(reporter),
                    Work::Store(job) => job.run(),
                    Work::Cancel => {}
                }
            }
            if pin!(self.task.arrival()).poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                return;
            }
        }
    }

    /// Steps now and at each deadline within `span`.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now.instant.after(span);
        loop {
            self.step();
            let at = self.task.deadline().unwrap_or(end).clamp(self.now.instant, end);
            self.now = Now { instant: at, unix: self.now.unix.after(at.since(self.now.instant)) };
            if at == end {
                return self.step();
            }
        }
    }

    /// The node is suspended: time passes without a step.
    pub(crate) fn suspend(&mut self, span: Duration) {
        self.now = Now { instant: self.now.instant.after(span), unix: self.now.unix.after(span) };
    }
}
