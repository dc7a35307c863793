//! Runs the command `perennial` as a process, with an API server in the test's process.

pub(crate) mod exposition;
pub(crate) mod preload;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{lchown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Key, Pending, Refusal, State, Template, UnixTime};
use perennial_dev::faults::Plan;
use perennial_dev::{Approval, Authority, ClusterSetup, Decision, Options, Random, ServingApproval, TestCluster};
use perennial_kubernetes::client::{Call, Limits, Request};
use perennial_kubernetes::objects::{CertificateSigningRequest, KUBELET_CLIENT_SIGNER};
use perennial_pki::{Credential, KeyPair};
use perennial_rotation::journal::Replay;
use perennial_rotation::{Identity, Record, Token, clock};
use perennial_std::{Cancel, drive};
use perennial_tests::command::copy_program;
pub(crate) use perennial_tests::command::{BOUND, Output, Process, event_of, events, files, stop, until};
use serde_json::Value;

/// Path of the `perennial` executable under test.
pub(crate) const COMMAND: &str = env!("CARGO_BIN_EXE_perennial");

/// Starts `perennial` in this directory, with log level info.
pub(crate) fn start<S: AsRef<OsStr>>(directory: &Path, arguments: &[S]) -> Process {
    start_logging(directory, arguments, "info")
}

pub(crate) fn start_logging<S: AsRef<OsStr>>(directory: &Path, arguments: &[S], level: &str) -> Process {
    start_with(directory, arguments, &[("PERENNIAL_LOG", level)])
}

pub(crate) fn start_with<S: AsRef<OsStr>>(directory: &Path, arguments: &[S], environment: &[(&str, &str)]) -> Process {
    let mut command = Command::new(COMMAND);
    command.args(arguments).envs(environment.iter().copied());
    Process::spawn(directory, command)
}

/// Runs `perennial` in this directory to its end, with log level info.
pub(crate) fn perennial<S: AsRef<OsStr>>(directory: &Path, arguments: &[S]) -> Output {
    start(directory, arguments).end()
}

/// Runs `perennial` as an unprivileged user who owns all files in this directory: the current user or, if the test runs
/// as root, user 65534.
pub(crate) fn as_nobody(directory: &Path, arguments: &[&str]) -> Output {
    const NOBODY: u32 = 65_534;
    copy_program(Path::new(COMMAND), &directory.join("perennial"));
    let mut command = Command::new(directory.join("perennial"));
    command.args(arguments);
    // Root ignores file permissions.
    if rustix::process::geteuid().is_root() {
        for theirs in files(directory).keys().map(PathBuf::as_path).chain([directory]) {
            lchown(theirs, Some(NOBODY), None).unwrap();
        }
        command.uid(NOBODY);
    }
    Process::spawn(directory, command).end()
}

/// An API server with a signer. CA, bootstrap token and kubeconfigs are in `signer/`, as with `perennial-dev signer`.
pub(crate) struct Signer {
    cluster: TestCluster,
    pub(crate) server: String,
}

impl Signer {
    /// Starts a signer on a free port. Without `--allow-serving-name`, serving certificates for any name are approved.
    pub(crate) fn start(directory: &Path, arguments: &[&str]) -> Self {
        Self::start_at(directory, "127.0.0.1:0", arguments)
    }

    /// Starts a signer at `address`. If an earlier signer ran in this directory, the new signer uses the same CA and
    /// token. `arguments` are like those of `perennial-dev signer`.
    pub(crate) fn start_at(directory: &Path, address: &str, arguments: &[&str]) -> Self {
        let signer = directory.join("signer");
        let authority = Some(authority(&signer));
        // A process that is being started for another test may have inherited the socket of an earlier signer.
        let listener = Some(until("the address", || TcpListener::bind(address).ok()));
        let token = fs::read_to_string(signer.join(TOKEN));
        let token = token.ok().map(|token| Token::new(&token).unwrap());
        let mut setup = ClusterSetup { listener, authority, token, ..ClusterSetup::default() };
        setup.options = Options { approve_serving: ServingApproval::Any, ..Options::default() };
        setup.options.signing_duration = Duration::from_secs(3600);
        let mut faults = Plan::default();
        for argument in arguments.chunks_exact(2) {
            match argument {
                ["--approve", "manual"] => setup.options.approval = Approval::Manual,
                ["--signing-duration", seconds] => {
                    setup.options.signing_duration =
                        Duration::from_secs(seconds.trim_end_matches('s').parse().unwrap());
                }
                ["--faults", file] => {
                    faults = Plan::parse(&fs::read_to_string(directory.join(file)).unwrap()).unwrap();
                }
                ["--other-signers", "true"] => setup.options.other_signers = true,
                ["--server-ca", own] => setup.server_authority = Some(self::authority(&directory.join(own))),
                ["--allow-serving-name", "*"] => setup.options.approve_serving = ServingApproval::Any,
                ["--allow-serving-name", name] => {
                    setup.options.approve_serving = ServingApproval::Own(vec![(*name).to_owned()]);
                }
                other => panic!("{other:?}"),
            }
        }
        let cluster = TestCluster::start_with(setup).unwrap();
        cluster.set_faults(faults);
        fs::write(signer.join(TOKEN), cluster.token().reveal()).unwrap();
        fs::write(signer.join("admin.kubeconfig"), cluster.admin_kubeconfig()).unwrap();
        fs::write(signer.join("bootstrap.kubeconfig"), cluster.bootstrap_kubeconfig()).unwrap();
        Self { server: cluster.url().to_owned(), cluster }
    }

    pub(crate) fn stop(self) {
        self.cluster.shutdown().unwrap();
    }

    pub(crate) fn cluster(&self) -> &TestCluster {
        &self.cluster
    }

    pub(crate) fn address(&self) -> &str {
        self.server.strip_prefix("https://").unwrap()
    }

    pub(crate) fn requests(&self) -> Vec<CertificateSigningRequest> {
        self.cluster.requests()
    }

    /// The number of requests that were submitted with the bootstrap token.
    pub(crate) fn bootstraps(&self) -> usize {
        let requests = self.requests();
        requests.iter().filter(|request| request.spec.username.starts_with("system:bootstrap:")).count()
    }

    /// Sends a request as the administrator. Returns the JSON of the answer.
    pub(crate) fn administer(&self, request: Request) -> Value {
        let admin = Identity::Certificate(self.cluster.admin().clone());
        let call = Call::new(request, self.cluster.cluster().clone(), admin, Limits::default());
        let answer = drive(call, &Cancel::default(), |_| {}).unwrap().unwrap();
        assert!(answer.status < 300, "{} {}", answer.status, String::from_utf8_lossy(&answer.body));
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// Creates a ClusterTrustBundle, or replaces its certificates.
    pub(crate) fn put_trust_bundle(&self, name: &str, signer_name: &str, pem: &str) {
        self.cluster.put_trust_bundle(name, signer_name, pem).unwrap();
    }

    pub(crate) fn decide(&self, csr: &str, decision: Decision) {
        self.cluster.decide(csr, decision).unwrap();
    }
}

const TOKEN: &str = "bootstrap.token";

/// Reads the CA in `ca.crt` and `ca.key` of this directory, or creates one.
fn authority(directory: &Path) -> Authority {
    let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
    if let (Ok(certificate), Ok(key)) = (fs::read_to_string(&certificate), fs::read_to_string(&key)) {
        return Authority::from_pem(&(certificate + &key)).unwrap();
    }
    let mut random = Random::from_os().unwrap();
    let authority = Authority::generate(&mut random, clock::now().unix, Duration::from_secs(10 * 86_400)).unwrap();
    fs::create_dir_all(directory).unwrap();
    fs::write(certificate, authority.certificate_pem()).unwrap();
    fs::write(key, KeyPair::from_pem(authority.to_pem()).unwrap().to_pem()).unwrap();
    authority
}

/// The arguments of `run` for a node whose files are in `worker/`.
pub(crate) fn run_arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["run", "--node-name", "worker", "--cert-dir", "worker/pki", "--kubeconfig", "worker/kubeconfig"];
    [&fixed, ["--bootstrap-kubeconfig", "signer/bootstrap.kubeconfig"].as_slice(), more].concat()
}

/// The arguments of `run` for a node whose files are in the directory itself, and whose bootstrap kubeconfig
/// [`bootstrap`] writes.
pub(crate) const RUN: [&str; 10] = [
    "run",
    "--json",
    "--node-name",
    "worker",
    "--cert-dir",
    "pki",
    "--kubeconfig",
    "kubeconfig",
    "--bootstrap-kubeconfig",
    "bootstrap",
];

/// Writes the kubeconfig `bootstrap`, with the signer's bootstrap token and the URL `server`. `cluster` holds further
/// YAML fields of the kubeconfig's cluster, each after a comma.
pub(crate) fn bootstrap(directory: &Path, server: &str, cluster: &str) {
    let token = fs::read_to_string(directory.join("signer/bootstrap.token")).unwrap();
    let text = format!(
        "clusters: [{{name: c, cluster: {{server: '{server}'{cluster}}}}}]\n\
         users: [{{name: u, user: {{token: {}}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n",
        token.trim()
    );
    fs::write(directory.join("bootstrap"), text).unwrap();
}

/// The base64 lines of all private keys in these files, in PEM or in pending records: secrets that no output may
/// contain.
pub(crate) fn key_lines(files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<String> {
    let texts = files.values().map(|file| str::from_utf8(file).unwrap());
    let keys = texts.flat_map(|text| {
        let blocks = text.split("-----BEGIN ").filter(|block| block.contains("PRIVATE KEY"));
        blocks.filter_map(|block| block.split("-----END").next())
    });
    // In a pending record, each line of a key is a JSON string.
    let lines = keys.flat_map(|key| key.split(['\n', '"', ',', ' ']));
    lines.filter(|line| line.len() >= 16 && !line.contains("-----")).map(str::to_owned).collect()
}

/// Requests `path` from the HTTP server at this address. Returns head and body.
pub(crate) fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Replaces a file that a process may be reading: the process finds the earlier contents or these.
pub(crate) fn replace(path: &Path, contents: &str) {
    let new = path.with_extension("new");
    fs::write(&new, contents).unwrap();
    fs::rename(new, path).unwrap();
}

/// The number of steps of certificate `of` in a journal, without clock checks that lead to nothing. Waits until the
/// certificate rests after the last step: a thread of its own writes the journal, and may be late.
pub(crate) fn steps_until_rest(journal: &Path, of: &str) -> usize {
    until("rest in the journal", || {
        let mut replay = Replay::new();
        let text = fs::read_to_string(journal).unwrap();
        let replayed = text.lines().filter_map(|line| replay.line(line).ok().filter(|line| line.of == of));
        let replayed: Vec<_> = replayed.collect();
        let machine = &replayed.last()?.machine;
        let rests = matches!(machine.state(), State::Scheduled { .. }) && !machine.is_unwritten();
        let steps = replayed.iter().filter(|line| line.step().is_some() && !line.is_uneventful());
        rests.then(|| steps.count())
    })
}

/// A CA of the test, for pairs that the signer has not issued.
pub(crate) struct Ca {
    pub(crate) authority: Authority,
    pub(crate) random: Random,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut random = Random::from_os().unwrap();
        let now = clock::now().unix.before(Duration::from_secs(86_400));
        let authority = Authority::generate(&mut random, now, Duration::from_secs(10 * 86_400)).unwrap();
        Self { authority, random }
    }

    /// Issues a credential for node `worker` whose certificate became valid `age` ago, with this lifetime.
    pub(crate) fn node(&mut self, age: Duration, lifetime: Duration) -> Credential {
        self.node_from(clock::now().unix.before(age), lifetime)
    }

    /// Issues a credential for node `worker` whose certificate is valid from `from` on, with this lifetime.
    pub(crate) fn node_from(&mut self, from: UnixTime, lifetime: Duration) -> Credential {
        let groups = ["system:nodes"];
        self.authority.client_credential("system:node:worker", &groups, &mut self.random, from, lifetime).unwrap()
    }
}

/// Writes `contents` as the current pair of a certificate directory: a dated file, and the link to it.
pub(crate) fn put_in_use(directory: &Path, contents: &[u8]) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("kubelet-client-2026-01-01-00-00-00-000.pem"), contents).unwrap();
    symlink("kubelet-client-2026-01-01-00-00-00-000.pem", directory.join("kubelet-client-current.pem")).unwrap();
}

/// The pending record of a request that was submitted ten minutes ago. If `refused`, an approver denied the request,
/// and the next request may be submitted in an hour.
pub(crate) fn record(key: Option<Arc<KeyPair>>, refused: bool) -> Record {
    let now = clock::now().unix;
    let refusal = Refusal { failure: Failure::Denied, failures: 1, retry_at: now.after(Duration::from_secs(3600)) };
    let pending = Pending {
        template: Arc::new(Template::node("worker")),
        key: if key.is_some() { Key::Pending } else { Key::New },
        submitted: now.before(Duration::from_secs(600)),
        budget_whole: now,
        refusal: refused.then_some(refusal),
    };
    let (signer_name, request_name) = (KUBELET_CLIENT_SIGNER.to_owned(), "node-csr-abc".to_owned());
    Record {
        server: None,
        signer_name,
        request_name,
        pending,
        renewal: None,
        request_digest: None,
        outdated: None,
        turned_down: None,
        key,
    }
}
