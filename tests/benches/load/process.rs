//! The server process: the benchmark's own executable, started with an environment variable that makes it serve, and
//! controlled over stdin and stdout.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use perennial::Template;
use perennial_dev::{Api, ApiRequest, ApiServer, Approval, Authority, Method, Options, Random, Tls, User};
use perennial_kubernetes::objects::{CSR_PATH, CertificateSigningRequest, CsrSpec};
use perennial_pki::{KeyAlgorithm, KeyPair, Roots, certificate_request};
use perennial_rotation::clock;

pub(crate) const SERVE: &str = "PERENNIAL_BENCH_SERVE";
pub(crate) const TOKEN: &str = "abcdef.0123456789abcdef";
pub(crate) const ADMIN_TOKEN: &str = "an-administrator's";
const DAY: Duration = Duration::from_secs(86_400);

/// An embedded API server in a child process. Dropping the value kills the process.
pub(crate) struct Server {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    pub(crate) address: SocketAddr,
    pub(crate) authority: Roots,
}

impl Server {
    pub(crate) fn start(what: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(SERVE, what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next().unwrap().unwrap().parse().unwrap();
        let mut pem = String::new();
        for line in lines.by_ref().map(Result::unwrap).take_while(|line| !line.is_empty()) {
            pem = pem + &line + "\n";
        }
        let authority = Roots::from_pem(pem.as_bytes()).unwrap();
        Self { stdin: child.stdin.take().unwrap(), child, lines, address, authority }
    }

    /// Sends a command to the server process. Returns the line with which the process answers once the command is done.
    pub(crate) fn command(&mut self, command: &str) -> String {
        writeln!(self.stdin, "{command}").unwrap();
        self.lines.next().unwrap().unwrap()
    }

    /// The resident memory of the server process now, in KiB.
    pub(crate) fn memory(&mut self) -> usize {
        self.command("VmRSS").parse().unwrap()
    }

    /// The peak of the server process's resident memory so far, in KiB.
    pub(crate) fn peak(&mut self) -> usize {
        self.command("VmHWM").parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server has no state to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The main function of the child process: starts the server, and carries out commands from standard input. `what`
/// chooses the request objects at the start: `full` makes a thousand, `large` a thousand of 33 KiB, anything else none.
pub(crate) fn serve(what: &str) {
    let mut random = Random::from_os().unwrap();
    let now = clock::now().unix;
    let authority = Authority::generate(&mut random, now, 10 * DAY).unwrap();
    let serving = authority.server_credential(&[], &[Ipv4Addr::LOCALHOST.into()], &mut random, now, DAY).unwrap();
    let tls = Tls::new(&authority, &serving).unwrap();
    let pem = authority.certificate_pem().to_owned();
    let mut api = Api::new(Options { approval: Approval::Manual, ..Options::default() }, authority, random);
    api.add_token(TOKEN, User::bootstrap("abcdef"));
    api.add_token(ADMIN_TOKEN, User::new("admin", ["system:masters"]));
    match what {
        "full" => (0..1000).for_each(|index| create(&mut api, index, 0)),
        "large" => (0..1000).for_each(|index| create(&mut api, index, 32 << 10)),
        _ => {}
    }
    let server = ApiServer::start(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), api, tls).unwrap();
    println!("{}\n{pem}", server.address());
    for command in std::io::stdin().lines().map(Result::unwrap) {
        println!("{}", obey(&server, &command));
    }
}

fn obey(server: &ApiServer, command: &str) -> String {
    match command {
        "names" => server.with_api(|api, _| {
            let names: Vec<&str> = api.requests().map(|csr| csr.metadata.name.as_str()).collect();
            names.join(" ")
        }),
        // Every object changes again and again, which makes many watch events.
        "churn" => {
            for round in 0..20 {
                for index in 0..1000 {
                    server.with_api(|api, now| annotate(api, index, round, now));
                }
            }
            String::new()
        }
        field => memory(field).to_string(),
    }
}

fn memory(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or_default()
}

fn create(api: &mut Api, index: usize, filler: usize) {
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let mut object = CertificateSigningRequest {
        spec: CsrSpec {
            request: certificate_request(&Template::node(&format!("node-{index}")), &key).unwrap().pem.into_bytes(),
            signer_name: "kubernetes.io/kube-apiserver-client-kubelet".into(),
            usages: vec!["digital signature".into(), "client auth".into()],
            ..CsrSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    object.metadata.name = format!("request-{index}");
    object.metadata.annotations.insert("filler".into(), "x".repeat(filler));
    let mut request = as_admin(Method::POST, CSR_PATH.to_owned());
    request.body = serde_json::to_vec(&object).unwrap();
    api.handle(&request, clock::now().unix);
}

fn annotate(api: &mut Api, index: usize, round: usize, now: perennial::UnixTime) {
    let mut request = as_admin(Method::PATCH, format!("{CSR_PATH}/request-{index}"));
    request.content_type = "application/merge-patch+json".into();
    request.body = format!(r#"{{"metadata":{{"annotations":{{"round":"{round}"}}}}}}"#).into_bytes();
    api.handle(&request, now);
}

fn as_admin(method: Method, target: String) -> ApiRequest {
    let mut request = ApiRequest::new(method, target);
    request.content_type = "application/json".into();
    request.peer = Some(Arc::new(User::new("admin", ["system:masters"])));
    request
}
