//! Ten thousand certificates in one process, each with its own key, chain, handle, store and identity: their memory,
//! their processor time while nothing is due, and the time until all are replaced.
//!
//! `cargo run --release -p perennial-examples --bin fleet_10k`. Options, each with a value: `--members` (10000),
//! `--runtime` (`std` or `smol`), `--store` (`memory` or `directory`), `--in-flight` (64), `--idle` (60, in seconds).
//!
//! The API server is another process, which this program starts from its own executable. The last line is the result.
//! `rss_kib_each` counts the memory above that of a process whose fleet has no members.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use perennial_dev::{ClusterSetup, TestCluster};
use perennial_examples::process::{processor_time, resident_kib, threads};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::cluster::Cluster;
use perennial_std::{Directory, Fleet, Handle, Limits, Memory, Roots, Rotator, Template, Token};
use tempfile::TempDir;

type AnyError = Box<dyn Error + Send + Sync>;

/// The longest time that all certificates may take, for the first time or for a rotation.
const BOUND: Duration = Duration::from_secs(600);
const SERVER: &str = "serve";

fn main() -> Result<(), AnyError> {
    let mut arguments = std::env::args().skip(1);
    let mut options = HashMap::new();
    while let Some(option) = arguments.next() {
        if option == SERVER {
            return serve();
        }
        let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
        options.insert(option, value);
    }
    let mut option = |name: &str, default: &str| options.remove(name).unwrap_or_else(|| default.to_owned());
    let members: usize = option("--members", "10000").parse()?;
    let (runtime, store) = (option("--runtime", "std"), option("--store", "memory"));
    let limits = Limits { in_flight: option("--in-flight", "64").parse()?, ..Limits::default() };
    let idle = Duration::from_secs(option("--idle", "60").parse()?);
    if let Some(unknown) = options.keys().next() {
        return Err(format!("unknown option {unknown}").into());
    }

    let server = Server::start()?;
    let fleet = match runtime.as_str() {
        "std" => perennial_std::fleet(limits)?,
        "smol" => {
            let (fleet, running) = perennial_smol::fleet(limits);
            thread::Builder::new().name("fleet".into()).spawn(|| smol::block_on(running))?;
            fleet
        }
        other => return Err(format!("--runtime is std or smol, not {other}").into()),
    };
    let directory = match store.as_str() {
        "memory" => None,
        "directory" => Some(TempDir::new()?),
        other => return Err(format!("--store is memory or directory, not {other}").into()),
    };
    let mut all = Members { fleet, signer: server.signer()?, directory, handles: Vec::new(), expired: 0 };

    // The first member loads the code, which every process needs once.
    all.add(members..members + 1)?;
    all.issued(1)?;
    if let Some(first) = all.handles.pop() {
        first.shutdown().within(BOUND);
    }
    let empty = resident_kib()?;

    let begun = Instant::now();
    all.add(0..members)?;
    all.issued(1)?;
    println!("issued: {members} in_s: {:.1}", begun.elapsed().as_secs_f64());

    // Exchanges end, and their threads after them.
    thread::sleep(Duration::from_secs(5));
    let (processor, begun) = (processor_time(), Instant::now());
    thread::sleep(idle);
    let idle_percent = 100.0 * (processor_time() - processor).as_secs_f64() / begun.elapsed().as_secs_f64();
    let rss = resident_kib()?.saturating_sub(empty) as f64 / members as f64;
    let threads = threads()?;

    let begun = Instant::now();
    all.handles.iter().for_each(Handle::rotate_now);
    all.issued(2)?;
    let rotated = all.handles.iter().filter(|handle| handle.snapshot().issued == 2).count();
    let seconds = begun.elapsed().as_secs_f64();
    all.fleet.shutdown().within(BOUND);
    println!("resident memory with an empty fleet: {empty} KiB; idle for {} s", idle.as_secs());
    println!(
        "certificates: {members} rss_kib_each: {rss:.1} threads: {threads} idle_cpu_percent: {idle_percent:.2} \
         rotated: {rotated} in_s: {seconds:.0} expired: {}",
        all.expired
    );
    Ok(())
}

/// The members of the fleet, as a program has them.
struct Members {
    fleet: Fleet,
    signer: Arc<CsrSigner>,
    directory: Option<TempDir>,
    handles: Vec<Handle>,
    /// Number of times that a member was seen without a valid certificate after its first one.
    expired: usize,
}

impl Members {
    fn add(&mut self, numbers: Range<usize>) -> Result<(), AnyError> {
        self.handles.reserve_exact(numbers.len());
        for number in numbers {
            let name = format!("worker-{number}");
            let rotator = Rotator::new().name(&name).template(Template::node(&name)).signer(self.signer.clone());
            let rotator = match &self.directory {
                Some(directory) => rotator.store(Directory::open(directory.path().join(&name), "kubelet-client")?),
                None => rotator.store(Memory::default()),
            };
            self.handles.push(self.fleet.add(rotator)?);
        }
        Ok(())
    }

    /// Waits until each member has had `count` certificates, and the last one is durable.
    fn issued(&mut self, count: u64) -> Result<(), AnyError> {
        let until = Instant::now() + BOUND;
        loop {
            let late = || self.handles.iter().map(Handle::snapshot).filter(|now| now.issued < count || now.unwritten);
            let left = late().count();
            if count > 1 {
                self.expired += self.handles.iter().filter(|handle| handle.credential().is_none()).count();
            }
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > until {
                let one = late().next();
                return Err(format!("{left} members have no certificate {count}; one of them: {one:?}").into());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The API server in another process.
struct Server {
    process: Child,
    url: String,
    token: Token,
    roots: Roots,
}

impl Server {
    fn start() -> Result<Self, AnyError> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = command.arg(SERVER).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(process.stdout.take().ok_or("the server has no output")?).lines();
        let mut line = || lines.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
        let (url, token) = (line()?, Token::new(&line()?)?);
        let mut pem = String::new();
        while !pem.contains("-----END CERTIFICATE-----") {
            pem.push_str(&line()?);
            pem.push('\n');
        }
        Ok(Self { process, url, token, roots: Roots::from_pem(pem.as_bytes())? })
    }

    /// The signer that all members share. Requests of a member authenticate with its own certificate; before the first
    /// one, with the bootstrap token.
    fn signer(&self) -> Result<Arc<CsrSigner>, AnyError> {
        let cluster = Arc::new(Cluster::from_url(&self.url)?.with_roots(self.roots.clone()));
        Ok(Arc::new(CsrSigner::kubelet_client(cluster, Some(Arc::new(self.token.clone())))))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server ends with its input.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Serves until the input ends.
fn serve() -> Result<(), AnyError> {
    let mut setup = ClusterSetup::default();
    setup.options.capacity = 100_000;
    setup.options.memory = 1 << 30;
    setup.options.history = 64;
    let cluster = TestCluster::start_with(setup)?;
    let mut output = io::stdout().lock();
    write!(output, "{}\n{}\n{}", cluster.url(), cluster.token().reveal(), String::from_utf8_lossy(cluster.ca_pem()))?;
    output.flush()?;
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(cluster.shutdown()?)
}
