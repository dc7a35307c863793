//! An embedded API server on loopback, and nodes on threads or smol that request certificates from it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use perennial::{Backoff, Budget, Policy, Template, Window};
use perennial_dev::{Api, ApiServer, Approval, Authority, Decision, Options, Random, Tls};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::client::{Call, Limits, Request};
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::Credential;
use perennial_rotation::{
    Directory, Fleet, FleetNotices, Handle, Identity, Limits as FleetLimits, Notice, Notices, Progress, Rotator,
    Snapshot, Store, Task, Token, clock,
};
use perennial_std::{Cancel, drive};

/// A bootstrap token that every embedded API server on loopback accepts.
pub const TOKEN: &str = "abcdef.0123456789abcdef";
/// The longest that a test waits for a node: enough on a busy machine.
pub const BOUND: Option<Duration> = Some(Duration::from_secs(60));

/// The runtime that drives a node.
#[derive(Clone, Copy, Debug)]
pub enum Runtime {
    /// Threads: `perennial_std`.
    Std,
    /// Futures: `perennial_smol`.
    Smol,
    /// A fleet of one on threads: [`perennial_std::fleet`].
    StdFleet,
    /// A fleet of one as a future: [`perennial_smol::fleet`].
    SmolFleet,
    /// A function of the test, which runs the task to its end. It is called on a new thread.
    Other(fn(Task)),
}

/// Runs a scenario on threads, and again on smol.
pub fn on_both(scenario: impl Fn(Runtime)) {
    scenario(Runtime::Std);
    scenario(Runtime::Smol);
}

/// An embedded API server that listens on loopback.
pub struct LoopbackServer {
    /// The running server.
    pub handle: ApiServer,
    /// The server's address, and the roots with which nodes verify the server.
    pub cluster: Arc<Cluster>,
}

/// Starts an embedded API server on loopback. The certificates that the server issues are valid for an hour.
pub fn serve(approval: Approval) -> LoopbackServer {
    let options = Options { approval, signing_duration: Duration::from_secs(3600), ..Options::default() };
    serve_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), new_authority(), options)
}

/// A new certificate authority, valid for a day.
pub fn new_authority() -> Authority {
    let mut random = Random::from_os().unwrap();
    Authority::generate(&mut random, clock::now().unix, Duration::from_secs(86_400)).unwrap()
}

/// Starts an embedded API server that listens on `address` and signs with `authority`.
pub fn serve_at(address: SocketAddr, authority: Authority, options: Options) -> LoopbackServer {
    let mut random = Random::from_os().unwrap();
    let (now, day) = (clock::now().unix, Duration::from_secs(86_400));
    let serving = authority.server_credential(&["localhost"], &[address.ip()], &mut random, now, day).unwrap();
    let tls = Tls::new(&authority, &serving).unwrap();
    let roots = authority.roots().unwrap();
    let mut api = Api::new(options, authority, random);
    api.add_token(TOKEN, perennial_dev::User::bootstrap("abcdef"));
    let handle = ApiServer::start(TcpListener::bind(address).unwrap(), api, tls).unwrap();
    let cluster = Cluster::from_url(&format!("https://{}", handle.address())).unwrap().with_roots(roots);
    LoopbackServer { handle, cluster: Arc::new(cluster) }
}

/// Loads the current pair of a credential directory.
pub fn stored(path: &Path) -> Arc<Credential> {
    let directory = Directory::open_existing(path, "kubelet-client").unwrap();
    directory.load(None, clock::now().unix).unwrap().credential.unwrap().0
}

impl LoopbackServer {
    /// The names of the request objects on the server.
    pub fn csr_names(&self) -> Vec<String> {
        self.handle.with_api(|api, _| api.requests().map(|csr| csr.metadata.name.clone()).collect())
    }

    /// Approves or denies every request object that has no condition yet.
    pub fn decide_all(&self, decision: Decision) {
        self.handle.with_api(|api, now| {
            let open = api.requests().filter(|csr| csr.status.conditions.is_empty());
            let open: Vec<String> = open.map(|csr| csr.metadata.name.clone()).collect();
            open.iter().for_each(|name| api.decide(name, decision, "because", now).unwrap());
        });
    }

    /// The user name and the certificate digest that the server reports for a client with this credential.
    pub fn user_of(&self, credential: &Arc<Credential>) -> (String, String) {
        let review = br#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
        let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review.to_vec());
        let identity = Identity::Certificate(credential.clone());
        let call = Call::new(request, self.cluster.clone(), identity, Limits::default());
        let answer = drive(call, &Cancel::default(), |_| {}).unwrap().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let user = &body["status"]["userInfo"];
        let digest = &user["extra"]["authentication.kubernetes.io/credential-id"][0];
        (user["username"].as_str().unwrap().into(), digest.as_str().unwrap().into())
    }
}

/// The digest of a certificate in the form that [`LoopbackServer::user_of`] returns.
pub fn digest(credential: &Credential) -> String {
    format!("X509SHA256={:x}", credential.chain().certificate().fingerprint)
}

/// A policy for tests in real time: the default policy with a short spacing, refill and backoff. Only the backoff after
/// a refusal is long, at least half a minute.
pub fn policy() -> Policy {
    let window = |from, to| Window::new(from, to).unwrap();
    let backoff =
        |first, cap| Backoff::new(Duration::from_millis(first), Duration::from_millis(cap), window(500, 1000)).unwrap();
    Policy {
        spacing: Duration::from_millis(20),
        budget: Budget::new(50, Duration::from_millis(100)).unwrap(),
        transient: backoff(50, 500),
        refused: backoff(60_000, 600_000),
        write: backoff(50, 500),
        ..Policy::default()
    }
}

/// A backoff of this span after each failure.
pub fn steady(span: Duration) -> Backoff {
    Backoff::new(span, span, Window::new(1000, 1000).unwrap()).unwrap()
}

/// The configuration of a node that has not been started.
pub struct NodeConfig {
    /// The runtime of the node.
    pub runtime: Runtime,
    /// The policy of the rotation.
    pub policy: Policy,
    /// The template of the certificate to request.
    pub template: Option<Template>,
    /// The signer of the requests.
    pub signer: Option<CsrSigner>,
    /// The store of the certificate.
    pub store: Option<Arc<dyn Store>>,
}

/// The configuration of a node that requests kubelet's client certificate with the bootstrap token.
pub fn node(runtime: Runtime, cluster: &Arc<Cluster>) -> NodeConfig {
    let token = Token::new(TOKEN).unwrap();
    let bootstrap = Arc::new(move || Ok(Identity::Token(token.clone())));
    let signer = CsrSigner::kubelet_client(cluster.clone(), Some(bootstrap));
    NodeConfig {
        runtime,
        policy: policy(),
        template: Some(Template::node("worker-1")),
        signer: Some(signer),
        store: None,
    }
}

impl NodeConfig {
    /// Stores the certificate in this directory.
    pub fn stored_in(mut self, path: impl Into<PathBuf>) -> Self {
        self.store = Some(Arc::new(Directory::open(path, "kubelet-client").unwrap()));
        self
    }

    /// Starts the node.
    pub fn start(self) -> Handle {
        self.start_with_notices().0
    }

    /// Starts the node, and returns its notices from the first step on.
    pub fn start_with_notices(self) -> (Handle, NodeNotices) {
        let Self { runtime, policy, template, signer, store } = self;
        let mut rotator = Rotator::new().policy(policy);
        if let Some(template) = template {
            rotator = rotator.template(template);
        }
        if let Some(signer) = signer {
            rotator = rotator.signer(signer);
        }
        if let Some(store) = store {
            rotator = rotator.store(store);
        }
        start_with_notices(runtime, rotator)
    }
}

/// Starts a rotation on this runtime.
pub fn start(runtime: Runtime, rotator: Rotator) -> Handle {
    start_with_notices(runtime, rotator).0
}

/// Starts a fleet on this runtime.
///
/// # Panics
/// The runtime has no fleets.
pub fn fleet(runtime: Runtime, limits: FleetLimits) -> Fleet {
    match runtime {
        Runtime::Std | Runtime::StdFleet => perennial_std::fleet(limits).unwrap(),
        Runtime::Smol | Runtime::SmolFleet => {
            let (fleet, running) = perennial_smol::fleet(limits);
            std::thread::spawn(|| smol::block_on(running));
            fleet
        }
        Runtime::Other(_) => panic!("there are no fleets on {runtime:?}"),
    }
}

/// The notices of a node, from its first step on.
#[derive(Debug)]
pub enum NodeNotices {
    /// The notices of a rotation that runs alone.
    Alone(Notices),
    /// The notices of a fleet whose only member is the node.
    OfFleet(FleetNotices),
}

impl NodeNotices {
    /// Waits for the next notice; `None` after the end of the node.
    pub fn recv(&mut self) -> Option<Notice> {
        match self {
            Self::Alone(notices) => notices.recv().within(BOUND),
            Self::OfFleet(notices) => notices.recv().within(BOUND).map(|news| news.notice),
        }
    }
}

fn start_with_notices(runtime: Runtime, rotator: Rotator) -> (Handle, NodeNotices) {
    if matches!(runtime, Runtime::StdFleet | Runtime::SmolFleet) {
        // The fleet ends with its member, since its own handle is dropped.
        let fleet = fleet(runtime, FleetLimits::default());
        let notices = NodeNotices::OfFleet(fleet.notices(usize::MAX));
        return (fleet.add(rotator).unwrap(), notices);
    }
    let (handle, task) = rotator.prepare().unwrap();
    let notices = handle.notices(usize::MAX);
    match runtime {
        Runtime::Std => perennial_std::spawn(task).unwrap(),
        Runtime::Smol => drop(std::thread::spawn(move || smol::block_on(perennial_smol::run(task)))),
        Runtime::Other(run) => drop(std::thread::spawn(move || run(task))),
        Runtime::StdFleet | Runtime::SmolFleet => unreachable!("started above"),
    }
    (handle, NodeNotices::Alone(notices))
}

/// Waits until `n` certificates have been issued since the start, and the last one is durable. Returns the current
/// credential of the rotation.
///
/// # Panics
/// The wait takes longer than [`BOUND`].
pub fn issued(handle: &Handle, n: u64) -> Arc<Credential> {
    let written = |now: &Snapshot| now.issued >= n && !now.unwritten;
    let snapshot = handle.wait_for(written).within(BOUND);
    snapshot.unwrap_or_else(|| panic!("no certificate {n}: {:?}", handle.snapshot())).credential.clone().unwrap()
}

/// Waits until the request in flight waits for approval, and returns the name of the request object.
pub fn waits_for_approval(handle: &Handle) -> String {
    let name = |now: &Snapshot| match &now.progress {
        Some(Progress::WaitingForApproval { request_name }) => Some(request_name.clone()),
        _ => None,
    };
    let snapshot = handle.wait_for(|now| name(now).is_some()).within(BOUND);
    snapshot.and_then(|now| name(&now)).unwrap_or_else(|| panic!("nothing waits: {:?}", handle.snapshot()))
}

/// Replaces the credential directory by a file, so that writes fail. A removed directory would not be enough: a write
/// creates a missing directory.
pub fn break_directory(path: &Path) {
    std::fs::remove_dir_all(path).unwrap();
    std::fs::write(path, "in the way").unwrap();
}

/// Removes the file that [`break_directory`] has put in the place of the directory. The next write creates the
/// directory.
pub fn mend_directory(path: &Path) {
    std::fs::remove_file(path).unwrap();
}
