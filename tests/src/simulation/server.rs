//! The embedded API server in virtual time, with helpers for its clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use perennial::{Now, Template, UnixTime};
use perennial_dev::{Answer, Api, ApiRequest, Authority, Method, Options, Random, Tls, faults::Plan};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::client::{DesiredCsr, Issuance, Limits, csr_name};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::objects::{CertificateSigningRequest, Condition, CsrSpec, ObjectMeta};
use perennial_pki::{Chain, Credential, KeyAlgorithm, KeyPair, certificate_request};
use perennial_rotation::{Authentication, Identity, Issued, SignError, Token};
use rustls::pki_types::UnixTime as TlsTime;
use rustls::time_provider::TimeProvider;
use serde_json::Value;

use super::{Clocks, Wire};

/// 2027-01-15T08:00:00Z, when the server starts.
pub const START: UnixTime = UnixTime::from_secs(1_800_000_000);
/// A second.
pub const SECOND: Duration = Duration::from_secs(1);
/// A minute.
pub const MINUTE: Duration = Duration::from_secs(60);
/// An hour.
pub const HOUR: Duration = Duration::from_secs(3600);
/// A day.
pub const DAY: Duration = Duration::from_secs(86_400);
/// The path of all request objects in the API.
pub const COLLECTION: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// The signer of client certificates of kubelets.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The signer of serving certificates of kubelets.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// The signer of any client certificate.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const TOKEN: &str = "abcdef.0123456789abcdef";

/// A TLS clock that stands still at [`START`], so that the serving certificate never expires in a simulation.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<TlsTime> {
        Some(TlsTime::since_unix_epoch(Duration::from_secs(START.as_secs() as u64)))
    }
}

/// The embedded API server in virtual time.
pub struct Server {
    /// The server's API, with its request objects, faults and journal.
    pub api: Api,
    /// The clocks of the server and its clients.
    pub clocks: Clocks,
    pub(super) tls: Tls,
    random: Random,
    cluster: Arc<Cluster>,
    /// The time of the wall clock, in milliseconds. The closures that [`wall_clock`](Self::wall_clock) returns read
    /// this value.
    wall_clock: Arc<AtomicI64>,
}

impl Server {
    /// A server whose CA is valid for a thousand days.
    pub fn new(options: Options) -> Self {
        Self::signed_by(options, 1000 * DAY)
    }

    /// A server whose CA is valid for `span`.
    pub fn signed_by(options: Options, span: Duration) -> Self {
        let mut random = Random::from_seed([7; 32]);
        let authority = Authority::generate(&mut random, START, span).unwrap();
        let shown = authority.server_credential(&["localhost"], &[], &mut random, START, span).unwrap();
        let tls = Tls::with_clock(&authority, &shown, Arc::new(Clock)).unwrap();
        let cluster = Cluster::from_url("https://localhost:6443").unwrap().with_roots(authority.roots().unwrap());
        let mut api = Api::new(options, authority, Random::from_seed([8; 32]));
        api.add_token(TOKEN, perennial_dev::User::bootstrap("abcdef"));
        let wall_clock = Arc::new(AtomicI64::new(START.as_millis()));
        Self { api, clocks: Clocks::starting(START), tls, random, cluster: Arc::new(cluster), wall_clock }
    }

    /// The signer of kubelets' client certificates. Each of its requests authenticates with a token.
    pub fn signer(&self) -> CsrSigner {
        let token = Token::new(TOKEN).unwrap();
        let authentication = Authentication::Other(Arc::new(move || Ok(Identity::Token(token.clone()))));
        CsrSigner { authentication, ..CsrSigner::kubelet_client(self.cluster.clone(), None) }
    }

    /// The address and the roots of the server, for clients.
    pub const fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Lets clients keep connections for later submissions.
    pub fn keep_connections(&mut self) {
        self.cluster = Arc::new(Cluster::clone(&self.cluster).with_kept_connections());
    }

    /// Sets the faults of the server, as YAML rules.
    pub fn faults(&mut self, rules: &str) {
        self.api.set_faults(Plan::parse(&format!("rules: [{rules}]")).unwrap(), self.now().unix);
    }

    /// The current time.
    pub const fn now(&self) -> Now {
        self.clocks.now
    }

    /// Lets time pass, and runs the controllers.
    pub fn pass(&mut self, span: Duration) {
        self.clocks.pass(span);
        self.wall_clock.store(self.now().unix.as_millis(), Ordering::Relaxed);
        self.api.tick(self.now().unix);
    }

    /// A clock that shows the wall-clock time of this server.
    pub fn wall_clock(&self) -> impl Fn() -> UnixTime + Send + Sync + 'static {
        let millis = self.wall_clock.clone();
        move || UnixTime::from_millis(millis.load(Ordering::Relaxed))
    }

    /// A credential of node `worker-1`, issued `age` ago for the lifetime `life`.
    pub fn node_credential(&mut self, age: Duration, life: Duration) -> Arc<Credential> {
        let issued = self.now().unix.before(age);
        let name = "system:node:worker-1";
        let authority = self.api.authority();
        Arc::new(authority.client_credential(name, &["system:nodes"], &mut self.random, issued, life).unwrap())
    }

    /// Sends a request to [`COLLECTION`] with `path` appended, as `user`. Returns the HTTP status.
    pub fn send(&mut self, user: &perennial_dev::User, method: Method, path: &str, body: impl Into<Value>) -> u16 {
        let mut request = ApiRequest::new(method, format!("{COLLECTION}{path}"));
        request.content_type = "application/json".into();
        request.body = body.into().to_string().into_bytes();
        request.peer = Some(Arc::new(user.clone()));
        match self.api.handle(&request, self.now().unix) {
            Answer::Response(response) => response.status,
            Answer::List(_) => 200,
            Answer::Watch(_) => panic!("no watches here"),
        }
    }

    /// Creates a request object, and returns the HTTP status.
    pub fn create(&mut self, user: &perennial_dev::User, object: &CertificateSigningRequest) -> u16 {
        self.send(user, Method::POST, "", json(object))
    }

    /// The request object of this name.
    pub fn object(&self, name: &str) -> Option<CertificateSigningRequest> {
        self.api.requests().find(|object| object.metadata.name == name).cloned()
    }

    /// Adds a condition as an administrator, by a PUT of this subresource, and returns the HTTP status.
    pub fn add_condition(&mut self, name: &str, kind: &str, subresource: &str) -> u16 {
        let mut object = self.object(name).unwrap();
        let condition = Condition { type_: kind.into(), status: "True".into(), ..Condition::default() };
        object.status.conditions.push(condition);
        self.send(&admin(), Method::PUT, &format!("/{name}/{subresource}"), json(&object))
    }

    /// Approves a request object as an administrator, and returns the HTTP status.
    pub fn approve(&mut self, name: &str) -> u16 {
        self.add_condition(name, "Approved", "approval")
    }

    /// The chain issued for the request object of this name, if there is one.
    pub fn chain(&self, name: &str) -> Option<Chain> {
        let certificate = self.object(name)?.status.certificate;
        (!certificate.is_empty()).then(|| Chain::from_pem(&certificate).unwrap())
    }

    /// Submits a request, and waits for the result for at most `span`; `None` if there is no result by then. Calls
    /// `idle` each time the exchange has nothing left to do but wait.
    pub fn submit(
        &mut self,
        desired_csr: &DesiredCsr,
        span: Duration,
        mut idle: impl FnMut(&mut Self),
    ) -> Option<Result<Issued, SignError>> {
        let identity = Identity::Token(Token::new(TOKEN).unwrap());
        let exchange = Issuance::new(desired_csr.clone(), self.cluster.clone(), identity, Limits::default(), 7);
        let mut wire = Wire::new(Box::new(exchange.sharing_connections()), self.now());
        let end = self.now().instant.after(span);
        while self.now().instant < end {
            if let Some(result) = wire.carry(self) {
                return Some(result);
            }
            idle(self);
            if let Some(result) = wire.carry(self) {
                return Some(result);
            }
            let next = wire.until.min(end).since(self.now().instant).max(Duration::from_millis(1));
            self.pass(next);
        }
        None
    }

    /// A line for each HTTP request since the faults were set, and a line `CONNECT` for each connection that met a
    /// fault.
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

/// The user of a bootstrap token.
pub fn bootstrapper() -> perennial_dev::User {
    perennial_dev::User::bootstrap("abcdef")
}

/// The user of a node's certificate.
pub fn node_user(node: &str) -> perennial_dev::User {
    perennial_dev::User::new(format!("system:node:{node}"), ["system:nodes"])
}

/// A new P-256 key.
pub fn key() -> KeyPair {
    KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap()
}

/// A request object for this template, with a new key.
pub fn csr(name: &str, signer: &str, usages: &[&str], template: &Template) -> CertificateSigningRequest {
    csr_of(name, signer, usages, certificate_request(template, &key()).unwrap().pem)
}

/// A request object with this PEM text as its CSR.
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

/// The request of node `worker-1` to this signer with this key.
pub fn desired_csr(key: &KeyPair, signer: &str) -> DesiredCsr {
    let template = Template::node("worker-1");
    let usages = ["digital signature", "client auth"].map(str::to_owned);
    DesiredCsr {
        name: csr_name(key.public_key_der(), template.common_name(), template.organizations(), &usages),
        request: certificate_request(&template, key).unwrap(),
        signer_name: signer.to_owned(),
        usages: usages.to_vec(),
        expiration_seconds: None,
        skew: MINUTE,
    }
}
