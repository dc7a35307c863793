//! A server in memory, whoever asks it, and a node; all in virtual time.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Instant, Now, Policy, RequestId, Template, UnixTime};
use perennial_dev::{Answer, Api, ApiRequest, Authority, Break, Method, Options, Random, Session, Tls, faults::Plan};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::client::{Ask, Issuance, Limits, csr_name};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::objects::{CertificateSigningRequest, Condition, CsrSpec, ObjectMeta};
use perennial_pki::{Chain, Credential, KeyAlgorithm, KeyPair, certificate_request};
use perennial_rotation::{
    Authentication, Command, Conversation, Exchange, Identity, Input, IoEvent, IoRequest, Issued, Rotation, SignError,
    SignerConversation, Start, Token,
};
use rustls::pki_types::UnixTime as TlsTime;
use rustls::time_provider::TimeProvider;
use serde_json::Value;

use crate::recording::Recording;

/// 2027-01-15T08:00:00Z, when it begins.
pub const START: UnixTime = UnixTime::from_secs(1_800_000_000);
/// A second.
pub const SECOND: Duration = Duration::from_secs(1);
/// A minute.
pub const MINUTE: Duration = Duration::from_secs(60);
/// An hour.
pub const HOUR: Duration = Duration::from_secs(3600);
/// A day.
pub const DAY: Duration = Duration::from_secs(86_400);
/// Where the request objects are.
pub const COLLECTION: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// Signs client certificates of kubelets.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs serving certificates of kubelets.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signs any client certificate.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const TOKEN: &str = "abcdef.0123456789abcdef";

/// The server's own certificate is valid throughout: one moment is as good as any.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<TlsTime> {
        Some(TlsTime::since_unix_epoch(Duration::from_secs(START.as_secs() as u64)))
    }
}

/// The embedded server.
pub struct Server {
    /// What it is.
    pub api: Api,
    /// Both clocks of everybody.
    pub now: Now,
    tls: Tls,
    random: Random,
    cluster: Arc<Cluster>,
}

impl Server {
    /// A server whose authority lives for a thousand days.
    pub fn new(options: Options) -> Self {
        Self::signed_by(options, 1000 * DAY)
    }

    /// Its authority lives for so long.
    pub fn signed_by(options: Options, span: Duration) -> Self {
        let mut random = Random::from_seed([7; 32]);
        let authority = Authority::generate(&mut random, START, span).unwrap();
        let shown = authority.server_credential(&["localhost"], &[], &mut random, START, span).unwrap();
        let tls = Tls::with_clock(&authority, &shown, Arc::new(Clock)).unwrap();
        let cluster = Cluster::from_url("https://localhost:6443").unwrap().with_roots(authority.roots().unwrap());
        let mut api = Api::new(options, authority, Random::from_seed([8; 32]));
        api.add_token(TOKEN, perennial_dev::User::bootstrap("abcdef"));
        Self { api, now: Now { instant: Instant::default(), unix: START }, tls, random, cluster: Arc::new(cluster) }
    }

    /// The signer of kubelets' client certificates, always asked with a token.
    pub fn signer(&self) -> CsrSigner {
        let token = Token::new(TOKEN).unwrap();
        let authentication = Authentication::Other(Arc::new(move || Ok(Identity::Token(token.clone()))));
        CsrSigner { authentication, ..CsrSigner::kubelet_client(self.cluster.clone(), None) }
    }

    /// Misbehaves from now on as these rules say.
    pub fn faults(&mut self, rules: &str) {
        self.api.set_faults(Plan::parse(&format!("rules: [{rules}]")).unwrap(), self.now.unix);
    }

    /// Time passes.
    pub fn pass(&mut self, span: Duration) {
        self.now = Now { instant: self.now.instant.after(span), unix: self.now.unix.after(span) };
        self.api.tick(self.now.unix);
    }

    /// A node's certificate, issued so long ago.
    pub fn node_credential(&mut self, age: Duration, life: Duration) -> Arc<Credential> {
        let issued = self.now.unix.before(age);
        let name = "system:node:worker-1";
        let authority = self.api.authority();
        Arc::new(authority.client_credential(name, &["system:nodes"], &mut self.random, issued, life).unwrap())
    }

    /// The status of the answer.
    pub fn send(&mut self, user: &perennial_dev::User, method: Method, path: &str, body: impl Into<Value>) -> u16 {
        let mut request = ApiRequest::new(method, format!("{COLLECTION}{path}"));
        request.content_type = "application/json".into();
        request.body = body.into().to_string().into_bytes();
        request.peer = Some(Arc::new(user.clone()));
        match self.api.handle(&request, self.now.unix) {
            Answer::Response(response) => response.status,
            Answer::List(_) => 200,
            Answer::Watch(_) => panic!("nobody watches here"),
        }
    }

    /// Creates a request object.
    pub fn create(&mut self, user: &perennial_dev::User, object: &CertificateSigningRequest) -> u16 {
        self.send(user, Method::Post, "", json(object))
    }

    /// The request object of this name.
    pub fn object(&self, name: &str) -> Option<CertificateSigningRequest> {
        self.api.requests().find(|object| object.metadata.name == name).cloned()
    }

    /// Adds a condition as `kubectl` and signers do, under this subresource.
    pub fn add_condition(&mut self, name: &str, kind: &str, subresource: &str) -> u16 {
        let mut object = self.object(name).unwrap();
        let condition = Condition { type_: kind.into(), status: "True".into(), ..Condition::default() };
        object.status.conditions.push(condition);
        self.send(&admin(), Method::Put, &format!("/{name}/{subresource}"), json(&object))
    }

    /// Approves it.
    pub fn approve(&mut self, name: &str) -> u16 {
        self.add_condition(name, "Approved", "approval")
    }

    /// The issued chain, if there is one.
    pub fn chain(&self, name: &str) -> Option<Chain> {
        let certificate = self.object(name)?.status.certificate;
        (!certificate.is_empty()).then(|| Chain::from_pem(&certificate).unwrap())
    }

    /// Submits what `ask` says, and waits for so long. Whenever there is nothing to do but wait, `idle` may do something.
    pub fn submit(
        &mut self,
        ask: &Ask,
        span: Duration,
        mut idle: impl FnMut(&mut Self),
    ) -> Option<Result<Issued, SignError>> {
        let identity = Identity::Token(Token::new(TOKEN).unwrap());
        let exchange = Issuance::new(ask.clone(), self.cluster.clone(), identity, Limits::default(), 7);
        let mut wire = Wire::new(Box::new(exchange), self.now);
        let end = self.now.instant.after(span);
        while self.now.instant < end {
            if let Some(result) = wire.carry(self) {
                return Some(result);
            }
            idle(self);
            if let Some(result) = wire.carry(self) {
                return Some(result);
            }
            let next = wire.until.min(end).since(self.now.instant).max(Duration::from_millis(1));
            self.pass(next);
        }
        None
    }

    /// The HTTP requests so far.
    pub fn journal(&self) -> Vec<String> {
        self.api.journal().map(str::to_owned).collect()
    }
}

/// A request object as JSON.
pub fn json(object: &CertificateSigningRequest) -> Value {
    serde_json::to_value(object).unwrap()
}

/// An administrator.
pub fn admin() -> perennial_dev::User {
    perennial_dev::User::new("kubernetes-admin", ["system:masters"])
}

/// Who asks for a first certificate.
pub fn bootstrapper() -> perennial_dev::User {
    perennial_dev::User::bootstrap("abcdef")
}

/// A node by its certificate.
pub fn node_user(node: &str) -> perennial_dev::User {
    perennial_dev::User::new(format!("system:node:{node}"), ["system:nodes"])
}

/// A key.
pub fn key() -> KeyPair {
    KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap()
}

/// A request object.
pub fn csr(name: &str, signer: &str, usages: &[&str], template: &Template) -> CertificateSigningRequest {
    csr_of(name, signer, usages, certificate_request(template, &key()).unwrap().pem)
}

/// A request object with this PEM text.
pub fn csr_of(name: &str, signer: &str, usages: &[&str], pem: impl Into<Vec<u8>>) -> CertificateSigningRequest {
    CertificateSigningRequest {
        api_version: "certificates.k8s.io/v1".into(),
        kind: "CertificateSigningRequest".into(),
        metadata: ObjectMeta { name: name.into(), ..ObjectMeta::default() },
        spec: CsrSpec {
            request: pem.into(),
            signer_name: signer.into(),
            usages: usages.iter().map(|usage| (*usage).to_owned()).collect(),
            ..CsrSpec::default()
        },
        ..CertificateSigningRequest::default()
    }
}

/// What a node asks of this signer with this key.
pub fn ask(key: &KeyPair, signer: &str) -> Ask {
    let template = Template::node("worker-1");
    let usages = ["digital signature", "client auth"].map(str::to_owned);
    Ask {
        name: csr_name(key.public_key_der(), template.common_name(), template.organizations(), &usages),
        request: certificate_request(&template, key).unwrap(),
        signer_name: signer.to_owned(),
        usages: usages.to_vec(),
        expiration_seconds: None,
        skew: MINUTE,
    }
}

/// An exchange and its connection.
pub struct Wire {
    exchange: Box<dyn SignerConversation>,
    session: Option<Session>,
    /// Until when there is nothing to carry.
    pub until: Instant,
}

impl Wire {
    /// An exchange that begins now.
    pub fn new(exchange: Box<dyn SignerConversation>, now: Now) -> Self {
        Self { exchange, session: None, until: now.instant }
    }

    /// Carries bytes until somebody has to wait. What came of the exchange, if it is over.
    pub fn carry(&mut self, server: &mut Server) -> Option<Result<Issued, SignError>> {
        let Server { api, tls, now, .. } = server;
        let now = *now;
        let mut bytes = Vec::new();
        for _ in 0..50_000 {
            bytes.clear();
            let input = match (self.exchange.poll(now), self.session.as_mut()) {
                (IoRequest::Done(result), _) => return Some(result),
                (IoRequest::Disconnect, _) => {
                    self.session = None;
                    continue;
                }
                (IoRequest::Wait { until }, _) | (IoRequest::Receive { until }, None) if until > now.instant => {
                    self.until = until;
                    return None;
                }
                (IoRequest::Wait { .. }, Some(_)) => continue,
                (IoRequest::Wait { .. } | IoRequest::Receive { .. } | IoRequest::Transmit { .. }, None) => {
                    IoEvent::Ended
                }
                (IoRequest::Connect { .. }, _) => {
                    let opened = self.session.insert(Session::new(tls, now.instant).unwrap());
                    opened.drive(api, now);
                    if opened.breaks() == Some(Break::Refused) {
                        IoEvent::Failed("connection refused".into())
                    } else {
                        IoEvent::Connected
                    }
                }
                (IoRequest::Transmit { bytes: sent, .. }, Some(open)) => {
                    open.receive(&sent);
                    open.drive(api, now);
                    continue;
                }
                (IoRequest::Receive { until }, Some(open)) => {
                    open.drive(api, now);
                    open.transmit(&mut bytes, now.instant);
                    if !bytes.is_empty() {
                        IoEvent::Received(&bytes)
                    } else if open.is_closed() {
                        IoEvent::Ended
                    } else if until > now.instant {
                        self.until = until.min(open.deadline());
                        return None;
                    } else {
                        continue;
                    }
                }
            };
            self.exchange.handle(input, now);
        }
        panic!("the exchange spins: {:?}", self.exchange);
    }
}

/// A node and the server it asks.
pub struct Node {
    /// Whom it asks.
    pub server: Server,
    /// What it is about.
    pub rotation: Rotation,
    recording: Recording,
    /// Submissions so far.
    pub submissions: u32,
    /// Certificates it was told to write.
    pub written: u32,
    /// What client-go's `ServerHealthy` would be after the last exchange.
    pub healthy: Option<bool>,
    live: Option<(RequestId, Wire)>,
}

impl Node {
    /// A node that asks with a token, as if somebody handed it a client, and holds this credential.
    pub fn new(server: Server, credential: Option<Arc<Credential>>) -> Self {
        Self::with(server, credential, |_| {})
    }

    /// The same, with a signer adjusted.
    pub fn with(server: Server, credential: Option<Arc<Credential>>, adjust: impl FnOnce(&mut CsrSigner)) -> Self {
        let mut signer = server.signer();
        adjust(&mut signer);
        let start = Start {
            policy: Arc::new(Policy::default()),
            signer: Some(Arc::new(signer)),
            template: Some(Arc::new(Template::node("worker-1"))),
            common_name: None,
            credential,
            waiting: None,
            unwritten: false,
            rotate_now: false,
            pending: None,
        };
        let mut rotation = Rotation::new(start, server.now);
        let recording = Recording::of(&mut rotation, server.now);
        Self { server, rotation, recording, submissions: 0, written: 0, healthy: None, live: None }
    }

    /// Whose serial number it would present now.
    pub fn presents(&self) -> Option<String> {
        let now = self.server.now;
        self.rotation.machine().certificate_at(now.unix)?;
        self.rotation.snapshot(now).credential.map(|held| held.chain().serial().to_owned())
    }

    /// Goes on for so long, by the laws.
    pub fn run(&mut self, span: Duration) {
        let end = self.server.now.instant.after(span);
        loop {
            let now = self.server.now;
            self.server.api.tick(now.unix);
            if self.rotation.deadline().is_some_and(|due| due <= now.instant) {
                self.tell(Input::Tick);
            }
            while let Some((id, result)) = self.converse() {
                self.tell(Input::Finished { id, result });
            }
            if now.instant >= end {
                return self.recording.check().unwrap_or_else(|broken| panic!("{broken}"));
            }
            let live = self.live.as_ref().map(|(_, wire)| wire.until);
            let next = [self.rotation.deadline(), live, Some(end)].into_iter().flatten().min().unwrap_or(end);
            self.server.pass(next.min(end).since(now.instant).max(Duration::from_millis(1)));
        }
    }

    fn converse(&mut self) -> Option<(RequestId, Result<Issued, SignError>)> {
        let (id, wire) = self.live.as_mut()?;
        let (id, result) = (*id, wire.carry(&mut self.server)?);
        self.healthy = wire.exchange.health().map(|health| health.reference_healthy()).or(self.healthy);
        self.live = None;
        Some((id, result))
    }

    /// Has the rotation take this in, and does what it says.
    pub fn tell(&mut self, input: Input) {
        let now = self.server.now;
        for command in self.rotation.handle(input, now) {
            match command {
                Command::Drive { id, exchange } => {
                    let Exchange::Conversation(exchange) = exchange else { panic!("{exchange:?}") };
                    self.submissions += 1;
                    self.live = Some((id, Wire::new(exchange, now)));
                }
                Command::Drop { id } => drop(self.live.take_if(|(live, _)| *live == id)),
                Command::Write { id, .. } => {
                    self.written += 1;
                    self.tell(Input::Written { id, result: Ok(()) });
                }
                Command::Save { .. } => self.tell(Input::Saved { result: Ok(()) }),
                Command::SetTimer(_) => {}
            }
        }
    }
}
