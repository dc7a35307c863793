//! Runs the real command, and waits for what it does with a bound.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

pub mod exposition;
pub mod preload;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{lchown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use perennial::UnixTime;
use perennial_dev::faults::Plan;
use perennial_dev::{Approval, Authority, ClusterSetup, Decision, Options, Random, ServingApproval, TestCluster};
use perennial_kubernetes::client::{Call, Limits, Request};
use perennial_kubernetes::objects::CertificateSigningRequest;
use perennial_pki::{Credential, KeyPair};
use perennial_rotation::{Identity, Token, clock};
use perennial_std::{Cancel, drive};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Nothing here takes longer, unless something is wrong.
pub const BOUND: Duration = Duration::from_secs(60);

/// Waits until `look` finds something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "no {what} within {BOUND:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The command under test.
pub const COMMAND: &str = env!("CARGO_BIN_EXE_perennial");

/// A running `perennial`, its output in files. Killed on drop.
pub struct Process {
    child: Child,
    output: TempDir,
}

/// How it ended, and what it said.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Process {
    pub fn start<S: AsRef<std::ffi::OsStr>>(directory: &Path, arguments: &[S]) -> Self {
        Self::start_logging(directory, arguments, "info")
    }

    pub fn start_logging<S: AsRef<std::ffi::OsStr>>(directory: &Path, arguments: &[S], level: &str) -> Self {
        Self::start_with(directory, arguments, &[("PERENNIAL_LOG", level)])
    }

    pub fn start_with<S: AsRef<std::ffi::OsStr>>(
        directory: &Path,
        arguments: &[S],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(COMMAND);
        command.args(arguments).envs(environment.iter().copied());
        Self::spawn(directory, command)
    }

    /// Of a command that ends up being `perennial`.
    pub fn spawn(directory: &Path, mut command: Command) -> Self {
        let output = TempDir::new().unwrap();
        let file = |name| Stdio::from(File::create(output.path().join(name)).unwrap());
        // What leads elsewhere on this machine is not for tests; those that want a proxy say so.
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"] {
            if command.get_envs().all(|(set, _)| set != name) {
                command.env_remove(name);
            }
        }
        let child = command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap();
        Self { child, output }
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(self.output.path().join("stdout")).unwrap()
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.output.path().join("stderr")).unwrap()
    }

    /// The events told so far, of this name.
    pub fn events(&self, name: &str) -> Vec<Value> {
        events(&self.stdout()).into_iter().filter(|event| event["event"] == name).collect()
    }

    /// Waits for the `count`th event of this name.
    pub fn event(&mut self, name: &str, count: usize) -> Value {
        until(&format!("{name} event {count}"), || {
            let ended = self.child.try_wait().unwrap();
            let found = self.events(name).into_iter().nth(count - 1);
            assert!(found.is_some() || ended.is_none(), "ended before: {}{}", self.stdout(), self.stderr());
            found
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// True once nobody has to wait for the end. Found out without waiting: `/proc` shows a zombie.
    pub fn has_ended(&self) -> bool {
        let state = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        state.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
    }

    /// Waits for the end.
    pub fn end(mut self) -> Output {
        let status = until("end of the process", || self.child.try_wait().unwrap());
        Output { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `perennial` to its end.
pub fn perennial<S: AsRef<std::ffi::OsStr>>(directory: &Path, arguments: &[S]) -> Output {
    Process::start(directory, arguments).end()
}

/// Runs `perennial` as somebody to whom things can be forbidden, and who owns everything here.
pub fn as_nobody(directory: &Path, arguments: &[&str]) -> Output {
    const NOBODY: u32 = 65_534;
    // Not by ourselves: what another test starts meanwhile would have it open for writing, too, and it could not be run.
    let copied = Command::new("cp").args([COMMAND, "perennial"]).current_dir(directory).status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(directory.join("perennial"));
    command.args(arguments);
    // To root nothing is forbidden.
    if rustix::process::geteuid().is_root() {
        for theirs in files(directory).keys().map(PathBuf::as_path).chain([directory]) {
            lchown(theirs, Some(NOBODY), None).unwrap();
        }
        command.uid(NOBODY);
    }
    Process::spawn(directory, command).end()
}

pub fn events(stdout: &str) -> Vec<Value> {
    // The last line may be half written.
    let whole = stdout.rfind('\n').map_or("", |end| &stdout[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

/// An API server, its CA, bootstrap token and kubeconfigs in `signer/`, as `perennial-dev signer` keeps them.
pub struct Signer {
    cluster: TestCluster,
    pub server: String,
}

impl Signer {
    /// A signer on a free port that approves serving certificates for any name.
    pub fn start(directory: &Path, arguments: &[&str]) -> Self {
        Self::start_at(directory, "127.0.0.1:0", arguments)
    }

    /// Takes up what a signer of this directory left. The arguments are some of those of `perennial-dev signer`.
    pub fn start_at(directory: &Path, address: &str, arguments: &[&str]) -> Self {
        let signer = directory.join("signer");
        let authority = Some(authority(&signer));
        let (listener, token) = (Some(TcpListener::bind(address).unwrap()), fs::read_to_string(signer.join(TOKEN)));
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

    pub fn stop(self) {
        self.cluster.shutdown().unwrap();
    }

    pub fn address(&self) -> &str {
        self.server.strip_prefix("https://").unwrap()
    }

    pub fn requests(&self) -> Vec<CertificateSigningRequest> {
        self.cluster.requests()
    }

    /// How many requests came with the bootstrap token.
    pub fn bootstraps(&self) -> usize {
        let requests = self.requests();
        requests.iter().filter(|request| request.spec.username.starts_with("system:bootstrap:")).count()
    }

    /// Sends a request as the administrator.
    pub fn administer(&self, request: Request) -> Value {
        let admin = Identity::Certificate(self.cluster.admin().clone());
        let call = Call::new(request, self.cluster.cluster().clone(), admin, Limits::default());
        let answer = drive(call, &Cancel::default(), |_| {}).unwrap().unwrap();
        assert!(answer.status < 300, "{} {}", answer.status, String::from_utf8_lossy(&answer.body));
        serde_json::from_slice(&answer.body).unwrap()
    }

    pub fn decide(&self, csr: &str, decision: Decision) {
        self.cluster.decide(csr, decision).unwrap();
    }
}

const TOKEN: &str = "bootstrap.token";

/// The CA in `ca.crt` and `ca.key` of this directory; a new one, if there is none.
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
pub fn run_arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["run", "--node-name", "worker", "--cert-dir", "worker/pki", "--kubeconfig", "worker/kubeconfig"];
    [&fixed, ["--bootstrap-kubeconfig", "signer/bootstrap.kubeconfig"].as_slice(), more].concat()
}

/// `run` for a node whose files are in the directory itself, and whose bootstrap kubeconfig is [`bootstrap`].
pub const RUN: [&str; 10] = [
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

/// Writes a bootstrap kubeconfig with the token of the signer, for this server, with these fields in its cluster.
pub fn bootstrap(directory: &Path, server: &str, cluster: &str) {
    let token = fs::read_to_string(directory.join("signer/bootstrap.token")).unwrap();
    let text = format!(
        "clusters: [{{name: c, cluster: {{server: '{server}'{cluster}}}}}]\n\
         users: [{{name: u, user: {{token: {}}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n",
        token.trim()
    );
    fs::write(directory.join("bootstrap"), text).unwrap();
}

/// Every file below, with its contents; links with their targets. Locks, which say who held them last, are not among
/// them.
pub fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_symlink() {
            found.insert(path.clone(), fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes());
        } else if metadata.is_dir() {
            found.insert(path.clone(), Vec::new());
            found.append(&mut files(&path));
        } else if !metadata.is_file() {
            // A pipe would hold us up.
            found.insert(path.clone(), Vec::new());
        } else if path.extension().is_none_or(|extension| extension != "lock") {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// The keys in these files, PEM or records of requests, line by line: what nobody may be told.
pub fn key_lines(files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<String> {
    let texts = files.values().map(|file| str::from_utf8(file).unwrap());
    let keys = texts.flat_map(|text| {
        let blocks = text.split("-----BEGIN ").filter(|block| block.contains("PRIVATE KEY"));
        blocks.filter_map(|block| block.split("-----END").next())
    });
    // In a record each line is a string.
    let lines = keys.flat_map(|key| key.split(['\n', '"', ',', ' ']));
    lines.filter(|line| line.len() >= 16 && !line.contains("-----")).map(str::to_owned).collect()
}

/// What is served there.
pub fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A CA of our own, for files that were there before.
pub struct Ca {
    pub authority: Authority,
    random: Random,
}

impl Ca {
    pub fn new() -> Self {
        let mut random = Random::from_os().unwrap();
        let now = clock::now().unix.before(Duration::from_secs(86_400));
        let authority = Authority::generate(&mut random, now, Duration::from_secs(10 * 86_400)).unwrap();
        Self { authority, random }
    }

    /// A node's certificate that became valid `age` ago and lives `lifetime`.
    pub fn node(&mut self, age: Duration, lifetime: Duration) -> Credential {
        self.node_from(clock::now().unix.before(age), lifetime)
    }

    /// A node's certificate that becomes valid then, and lives `lifetime`.
    pub fn node_from(&mut self, from: UnixTime, lifetime: Duration) -> Credential {
        let groups = ["system:nodes"];
        self.authority.client_credential("system:node:worker", &groups, &mut self.random, from, lifetime).unwrap()
    }
}

/// Puts `contents` where a certificate directory keeps the pair in use.
pub fn put_in_use(directory: &Path, contents: &[u8]) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("kubelet-client-2026-01-01-00-00-00-000.pem"), contents).unwrap();
    symlink("kubelet-client-2026-01-01-00-00-00-000.pem", directory.join("kubelet-client-current.pem")).unwrap();
}
