//! Measures one rotation against an embedded API server in a process of its own, over TLS 1.3 with client certificates:
//! `cargo bench -p perennial-tests --features valgrind --bench rotation_cpu`.
//!
//! Prints the wall time and the CPU time of the client process per rotation. With the feature `valgrind`, for which
//! valgrind must be installed, also prints the client's instructions per rotation: those of a run with more rotations
//! minus those of a run with fewer, so that the start and the first certificate do not count.

use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial::{Budget, Policy, Template};
use perennial_dev::Approval;
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::Roots;
use perennial_rotation::{Directory, Identity, Rotator, Token};
use perennial_tests::bench::sized;
use perennial_tests::loopback::{self, LoopbackServer, TOKEN};
use rustix::time::{ClockId, clock_gettime};

/// Makes this executable run the server, or the rotations of a measurement: `serve`, or their number.
const ROLE: &str = "PERENNIAL_BENCH_ROLE";
const ADDRESS: &str = "PERENNIAL_BENCH_ADDRESS";
const CA: &str = "PERENNIAL_BENCH_CA";
/// The rotations of the two runs under valgrind.
const COUNTED: [u64; 2] = [10, 60];

fn main() {
    match std::env::var(ROLE) {
        Ok(role) if role == "serve" => serve(),
        Ok(role) => rotate(role.parse().unwrap()),
        Err(_) => measure(),
    }
}

fn measure() {
    let server = Server::start();
    let run = |valgrind: Option<&Path>, rotations: u64| {
        let own = std::env::current_exe().unwrap();
        let mut command = match valgrind {
            Some(counts) => {
                let mut command = Command::new("valgrind");
                command.args(["--tool=callgrind", "--quiet"]);
                command.arg(format!("--callgrind-out-file={}", counts.display())).arg(own);
                command
            }
            None => Command::new(own),
        };
        command.env(ROLE, rotations.to_string()).env(ADDRESS, &server.address).env(CA, &server.ca);
        command.status().is_ok_and(|status| status.success())
    };
    assert!(run(None, sized(200, 3)));
    if sized(cfg!(feature = "valgrind"), false) {
        let folder = tempfile::tempdir().unwrap();
        let [fewer, more] = COUNTED.map(|rotations| {
            let counts = folder.path().join(rotations.to_string());
            assert!(run(Some(&counts), rotations), "cannot run under valgrind");
            instructions(&std::fs::read_to_string(counts).unwrap())
        });
        println!("rotation instructions: {}", (more - fewer) / (COUNTED[1] - COUNTED[0]));
    }
}

/// The sum of all instructions in a file of callgrind.
fn instructions(counts: &str) -> u64 {
    let total =
        counts.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    total.unwrap().trim().parse().unwrap()
}

/// An embedded API server in a child process, which ends with this value.
struct Server {
    child: Child,
    address: String,
    ca: String,
    /// Kept open: the server ends if it cannot write a line.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Server {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command.env(ROLE, "serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = output.by_ref().map(Result::unwrap);
        let address = lines.next().unwrap();
        let ca = lines.take_while(|line| !line.is_empty()).map(|line| line + "\n").collect();
        Self { child, address, ca, _output: output }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server ends at the end of its input.
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

fn serve() {
    let LoopbackServer { handle, cluster } = loopback::serve(Approval::Auto);
    println!("{}\n{}", handle.address(), cluster.roots().unwrap().roots().unwrap().pem());
    println!();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Rotates a certificate in a credential directory this many times, with the runtime of threads.
fn rotate(rotations: u64) {
    let roots = Roots::from_pem(std::env::var(CA).unwrap().as_bytes()).unwrap();
    let url = format!("https://{}", std::env::var(ADDRESS).unwrap());
    let cluster = Arc::new(Cluster::from_url(&url).unwrap().with_roots(roots));
    let token = Token::new(TOKEN).unwrap();
    let signer = CsrSigner::kubelet_client(cluster, Some(Arc::new(move || Ok(Identity::Token(token.clone())))));
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = Arc::new(Directory::open(folder.path(), "kubelet-client").unwrap());
    let budget = Budget::new(1000, Duration::from_millis(1)).unwrap();
    let policy = Policy { spacing: Duration::from_millis(1), budget, ..loopback::policy() };
    let rotator = Rotator::new().policy(policy).template(Template::node("worker-1")).signer(signer).store(store);
    let handle = perennial_std::start(rotator).unwrap();
    loopback::issued(&handle, 1);
    let (began, cpu) = (Instant::now(), cpu_time());
    for rotation in 1..=rotations {
        handle.rotate_now();
        loopback::issued(&handle, rotation + 1);
    }
    let each = |time: Duration| time.as_secs_f64() * 1000.0 / rotations as f64;
    if !COUNTED.contains(&rotations) {
        println!("rotation wall_ms: {:.2} cpu_ms: {:.2}", each(began.elapsed()), each(cpu_time() - cpu));
    }
    handle.shutdown().wait();
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap()
}
