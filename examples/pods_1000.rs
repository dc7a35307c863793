//! The certificates of a thousand pods on one node, as a node agent keeps them: what each costs at rest, and how long all of
//! them take to be refreshed after the node was suspended for twelve hours. Run
//! `cargo run --release -p perennial-examples --features test-clock --bin pods_1000`, with these options after `--`:
//! `--pods` (1000), `--in-flight` (64), `--idle` (60, in seconds).
//!
//! The API server is another process, which this program starts from its own executable. Certificates live for 16 hours, and
//! their signer wants them to be refreshed after two thirds of that. The suspend is a step of the wall clocks of both
//! processes. The node notices the step within a minute, as it notices a real suspend, and this minute counts. The last line
//! is the result. `rss_kib_each` counts the memory above that of a process without pods; `requests` are the request objects
//! on the API server.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use perennial_dev::{Answer, ApiRequest, ClusterSetup, Method, PodSigner, TestCluster, User};
use perennial_examples::process::{processor_time, resident_kib, threads};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::pods::{
    Pod, PodCertificateSource, PodCertificateState, PodCertificates, PodSource, PodVolume,
};
use perennial_kubernetes::{CsrSigner, PodIdentity};
use perennial_std::{Directory, Handle, Limits, Projection, Roots, Rotator, Template, Token, clock};
use tempfile::TempDir;

type AnyError = Box<dyn Error + Send + Sync>;

/// The longest time that all certificates may take, for the first time or for the refresh.
const BOUND: Duration = Duration::from_secs(600);
const SUSPEND: Duration = Duration::from_secs(12 * 3600);
const SIGNER: &str = "example.com/mesh";
const NODE: &str = "worker-1";
const SERVER: &str = "serve";
/// Names the file with the milliseconds that the wall clocks are ahead, in builds with the feature `test-clock`.
const CLOCK: &str = "PERENNIAL_TEST_CLOCK";

fn main() -> Result<(), AnyError> {
    let mut arguments = env::args().skip(1);
    let mut options = HashMap::new();
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
        if option == SERVER {
            return serve(value.parse()?);
        }
        options.insert(option, value);
    }
    let Some(clock_file) = env::var_os(CLOCK).map(PathBuf::from) else { return Err(restart_with_clock().into()) };
    let mut option = |name: &str, default: &str| options.remove(name).unwrap_or_else(|| default.to_owned());
    let count: usize = option("--pods", "1000").parse()?;
    let limits = Limits { in_flight: option("--in-flight", "64").parse()?, ..Limits::default() };
    let idle = Duration::from_secs(option("--idle", "60").parse()?);
    if let Some(unknown) = options.keys().next() {
        return Err(format!("unknown option {unknown}").into());
    }

    let root = TempDir::new()?;
    // One pod more, which comes first: it loads the code, which every process needs once.
    let mut server = Server::start(count + 1)?;
    let mut node = Node::start(&server, root.path(), limits)?;
    let first = server.pods.pop().ok_or("no pod")?;
    node.put([first.clone()])?;
    node.await_certificates(1)?;
    node.pods.remove(&first.uid, clock::now().unix)?;
    node.handles.clear();
    let (empty, first_requests) = (resident_kib()?, server.requests()?);

    let begun = Instant::now();
    node.put(std::mem::take(&mut server.pods))?;
    node.await_certificates(1)?;
    println!("issued: {count} in_s: {:.1}", begun.elapsed().as_secs_f64());

    // Exchanges end, and their threads after them.
    thread::sleep(Duration::from_secs(10));
    let (processor, begun) = (processor_time(), Instant::now());
    thread::sleep(idle);
    let idle_percent = 100.0 * (processor_time() - processor).as_secs_f64() / begun.elapsed().as_secs_f64();
    let rss = resident_kib()?.saturating_sub(empty) as f64 / count as f64;
    let threads = threads()?;

    fs::write(&clock_file, SUSPEND.as_millis().to_string())?;
    let begun = Instant::now();
    let (first, expired) = node.await_certificates(2)?;
    let (seconds, noticed) = (begun.elapsed().as_secs_f64(), (first - begun).as_secs_f64());
    let statuses = node.pods.statuses(clock::now().unix);
    if let Some(other) = statuses.iter().find(|status| status.state != PodCertificateState::Fresh) {
        return Err(format!("a certificate is {}: {other:?}", other.state.name()).into());
    }
    let requests = server.requests()? - first_requests;
    fs::remove_file(clock_file)?;
    println!(
        "resident memory without pods: {empty} KiB; idle for {} s; suspend noticed after {noticed:.1} s",
        idle.as_secs()
    );
    println!(
        "pods: {count} rss_kib_each: {rss:.1} threads: {threads} idle_cpu_percent: {idle_percent:.2} requests: {requests} \
         refreshed_after_12h_in_s: {seconds:.0} expired: {expired}"
    );
    Ok(())
}

/// Runs this program once more, with a file for the steps of the clock. Returns only an error.
fn restart_with_clock() -> io::Error {
    let file = env::temp_dir().join(format!("pods_1000-{}.clock", std::process::id()));
    let arguments = env::args_os().skip(1);
    match env::current_exe() {
        Ok(program) => Command::new(program).args(arguments).env(CLOCK, file).exec(),
        Err(error) => error,
    }
}

/// The agent of a node.
struct Node {
    pods: PodCertificates,
    volumes: PathBuf,
    handles: Vec<Handle>,
}

impl Node {
    /// Starts an agent. The identity of its requests is the client certificate of the node, a member of the same fleet.
    fn start(server: &Server, root: &Path, limits: Limits) -> Result<Self, AnyError> {
        let cluster = Cluster::from_url(&server.url)?.with_roots(server.roots.clone()).with_kept_connections();
        let (cluster, fleet) = (Arc::new(cluster), perennial_std::fleet(limits)?);
        let signer = CsrSigner::kubelet_client(cluster.clone(), Some(Arc::new(server.token.clone())));
        let store = Directory::open(root.join("node"), "kubelet-client")?;
        let node = fleet.add(Rotator::new().name("node").template(Template::node(NODE)).signer(signer).store(store))?;
        node.wait_for(|now| now.credential.is_some()).within(BOUND).ok_or("no certificate of the node")?;
        let pods = PodCertificates::new(fleet, root.join("state"), cluster, Arc::new(node));
        Ok(Self { pods, volumes: root.join("volumes"), handles: Vec::new() })
    }

    /// Adds pods, each with one certificate in one volume.
    fn put(&mut self, pods: impl IntoIterator<Item = PodIdentity>) -> Result<(), AnyError> {
        for identity in pods {
            let uid = identity.uid.clone();
            let certificate = PodCertificateSource::new(SIGNER, Projection::Bundle { path: "credential.pem".into() });
            let sources = BTreeMap::from([(0, PodSource::Certificate(certificate))]);
            let volume = PodVolume { sources, mode: 0o600, ..PodVolume::new("mesh", self.volumes.join(&uid)) };
            self.pods.put(Pod { identity, volumes: vec![volume] }, clock::now().unix)?;
            self.handles.push(self.pods.handle(&uid, "mesh", 0).ok_or("no certificate")?);
        }
        Ok(())
    }

    /// Waits until each pod has had `count` certificates, and the last one is in its volume. Returns when the first of these
    /// was seen, and how often a pod was seen without a valid certificate after its first one.
    fn await_certificates(&self, count: u64) -> Result<(Instant, usize), AnyError> {
        let (until, mut first, mut expired) = (Instant::now() + BOUND, None, 0);
        loop {
            let late = || self.handles.iter().map(Handle::snapshot).filter(|now| now.issued < count || now.unwritten);
            let left = late().count();
            if count > 1 {
                expired += self.handles.iter().filter(|handle| handle.credential().is_none()).count();
            }
            if left < self.handles.len() {
                first.get_or_insert_with(Instant::now);
            }
            if left == 0 {
                return Ok((first.unwrap_or_else(Instant::now), expired));
            }
            if Instant::now() > until {
                return Err(format!("{left} pods have no certificate {count}; one of them: {:?}", late().next()).into());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The API server in another process.
struct Server {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    url: String,
    token: Token,
    roots: Roots,
    pods: Vec<PodIdentity>,
}

impl Server {
    fn start(pods: usize) -> Result<Self, AnyError> {
        let mut command = Command::new(env::current_exe()?);
        let command = command.args([SERVER, &pods.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let input = process.stdin.take();
        let mut output = BufReader::new(process.stdout.take().ok_or("the server has no output")?);
        let (url, token) = (line(&mut output)?, Token::new(&line(&mut output)?)?);
        let pods = (0..pods).map(|_| identity(&line(&mut output)?)).collect::<Result<_, AnyError>>()?;
        let mut pem = String::new();
        while !pem.contains("-----END CERTIFICATE-----") {
            pem.push_str(&line(&mut output)?);
            pem.push('\n');
        }
        Ok(Self { process, input, output, url, token, roots: Roots::from_pem(pem.as_bytes())?, pods })
    }

    /// The number of request objects for certificates of pods.
    fn requests(&mut self) -> Result<usize, AnyError> {
        self.input.as_ref().ok_or("the server has no input")?.write_all(b"\n")?;
        Ok(line(&mut self.output)?.parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server ends with its input.
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

fn line(output: &mut BufReader<ChildStdout>) -> io::Result<String> {
    let mut line = String::new();
    match output.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

/// Reads the line that [`serve`] has written for a pod.
fn identity(line: &str) -> Result<PodIdentity, AnyError> {
    let [name, uid, service_account_uid, node_uid] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("unexpected line of the server: {line}").into());
    };
    Ok(PodIdentity {
        namespace: "shop".into(),
        name: name.into(),
        uid: uid.into(),
        service_account_name: "web".into(),
        service_account_uid: service_account_uid.into(),
        node_name: NODE.into(),
        node_uid: node_uid.into(),
    })
}

/// Serves until the input ends. Answers each line of input with the number of request objects.
fn serve(pods: usize) -> Result<(), AnyError> {
    let mut setup = ClusterSetup::default();
    setup.options.capacity = 100_000;
    setup.options.memory = 1 << 30;
    setup.options.history = 64;
    // All requests are counted at the end.
    setup.options.keep_pod_requests = 10 * SUSPEND;
    let cluster = TestCluster::start_with(setup)?;
    cluster.set_pod_signer(SIGNER, PodSigner { lifetime: SUSPEND * 4 / 3, ..PodSigner::default() });
    let mut output = io::stdout().lock();
    writeln!(output, "{}\n{}", cluster.url(), cluster.token().reveal())?;
    for number in 0..pods {
        let pod = cluster.put_pod("shop", &format!("web-{number}"), "web", NODE)?;
        writeln!(output, "{} {} {} {}", pod.name, pod.uid, pod.service_account_uid, pod.node_uid)?;
    }
    write!(output, "{}", String::from_utf8_lossy(cluster.ca_pem()))?;
    output.flush()?;
    for line in io::stdin().lock().lines() {
        line?;
        writeln!(output, "{}", count_requests(&cluster)?)?;
        output.flush()?;
    }
    Ok(cluster.shutdown()?)
}

fn count_requests(cluster: &TestCluster) -> Result<usize, AnyError> {
    let target = "/apis/certificates.k8s.io/v1beta1/podcertificaterequests";
    let user = User::new("admin", ["system:masters"]);
    let request = ApiRequest { peer: Some(Arc::new(user)), ..ApiRequest::new(Method::GET, target) };
    let answer = cluster.server().with_api(|api, now| match api.handle(&request, now) {
        Answer::List(list) => Some(list.into_response()),
        _ => None,
    });
    let list: serde_json::Value = serde_json::from_slice(&answer.ok_or("no list of requests")?.body)?;
    Ok(list["items"].as_array().map_or(0, Vec::len))
}
