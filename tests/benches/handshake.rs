//! Measures TLS handshakes with configurations that follow rotations against configurations that never change:
//! `cargo bench -p perennial-tests --bench handshake`. Both sides present a certificate, and no session is resumed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use perennial::{Policy, Template, Validity};
use perennial_pki::{Credential, Issuer, KeyAlgorithm, KeyPair, KeyUsage, Roots, Terms, Usage, provider};
use perennial_pki::{read_request, self_signed};
use perennial_rotation::tls::{client_config, mutual_server_config};
use perennial_rotation::{Exchange, Failure, Handle, Rotator, SignError, SignWith, Task, Work, clock};
use perennial_tests::bench::sized;
use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

const HOUR: Duration = Duration::from_secs(3600);
/// The longest lifetime of the certificates that rotate in the background. Their lifetimes are spread, so that some of
/// them are always due.
const LIFETIME: Duration = Duration::from_secs(60);

/// Server and client configurations of one kind.
struct Pair(Arc<ServerConfig>, Arc<ClientConfig>);

fn main() {
    let ca = Arc::new(Ca::new());
    let roots = Roots::from_pem(ca.issuer.credential().chain().pem().as_bytes()).unwrap();
    let policy = Policy::for_lifetime(HOUR);
    let mut ends = ["server", "client"].map(|name| ca.rotation(name, HOUR, &policy));
    ends.iter_mut().for_each(|(_, task)| step(task));
    ends.iter_mut().for_each(|(_, task)| step(task));
    let [(server, _), (client, _)] = &ends;
    let rotating =
        Pair(Arc::new(mutual_server_config(server, roots.clone())), Arc::new(client_config(client, roots.clone())));
    let [server, client] = [server, client].map(|handle| handle.credential().unwrap());
    let fixed = fixed(&server, &client, &roots);

    println!("alone:                        {}", compare(&fixed, &rotating));
    for &certificates in sized(&[1_000, 10_000][..], &[100]) {
        let (count, rotations) = beside(&ca, certificates, || compare(&fixed, &rotating));
        println!("with {certificates:>6} rotations at work: {count} ({rotations} certificates issued meanwhile)");
    }
}

/// Handshakes per second of both kinds: the medians of rounds that alternate, and the median of their ratios.
fn compare(fixed: &Pair, rotating: &Pair) -> String {
    let count = sized(15, 1);
    let mut rounds: Vec<(f64, f64)> = (0..count).map(|_| (rate(fixed), rate(rotating))).collect();
    let mut median = |of: fn(&(f64, f64)) -> f64| {
        rounds.sort_by(|a, b| of(a).total_cmp(&of(b)));
        of(&rounds[count / 2])
    };
    let (before, now, ratio) = (median(|round| round.0), median(|round| round.1), median(|round| round.1 / round.0));
    format!("fixed {before:6.0}/s, rotating {now:6.0}/s, ratio {ratio:.3}")
}

fn rate(pair: &Pair) -> f64 {
    let (handshakes, begun) = (sized(200, 2), Instant::now());
    (0..handshakes).for_each(|_| handshake(pair));
    f64::from(handshakes) / begun.elapsed().as_secs_f64()
}

/// A full handshake in memory.
fn handshake(Pair(server, client): &Pair) {
    let mut server = ServerConnection::new(server.clone()).unwrap();
    let mut client = ClientConnection::new(client.clone(), "server.example".try_into().unwrap()).unwrap();
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        deliver(&mut wire, |bytes| server.read_tls(bytes));
        server.process_new_packets().unwrap();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        deliver(&mut wire, |bytes| client.read_tls(bytes));
        client.process_new_packets().unwrap();
    }
}

fn deliver(wire: &mut Vec<u8>, mut read: impl FnMut(&mut &[u8]) -> io::Result<usize>) {
    let mut bytes = wire.as_slice();
    while !bytes.is_empty() {
        read(&mut bytes).unwrap();
    }
    wire.clear();
}

/// Configurations as a program without rotation writes them, for the same certificates.
fn fixed(server: &Credential, client: &Credential, roots: &Roots) -> Pair {
    let key =
        |credential: &Credential| Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&credential.certified_key())));
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.store(), provider()).build().unwrap();
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let mut serving = builder.with_client_cert_verifier(verifier).with_cert_resolver(key(server));
    serving.session_storage = Arc::new(NoServerSessionStorage {});
    serving.send_tls13_tickets = 0;
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let mut calling = builder.with_root_certificates(roots.store()).with_client_cert_resolver(key(client));
    calling.resumption = Resumption::disabled();
    Pair(Arc::new(serving), Arc::new(calling))
}

/// Calls `work` while another thread keeps this many certificates rotated. Returns the number of certificates that were
/// issued meanwhile as well.
fn beside<T>(ca: &Arc<Ca>, certificates: usize, work: impl FnOnce() -> T) -> (T, u64) {
    let policy = Policy::for_lifetime(LIFETIME);
    let mut rotations: Vec<_> =
        (0..certificates).map(|n| ca.rotation(&format!("service-{n}"), LIFETIME, &policy)).collect();
    // Each has its first certificate, before the measurement.
    for _ in 0..2 {
        rotations.iter_mut().for_each(|(_, task)| step(task));
    }
    assert!(rotations.iter().all(|(handle, _)| handle.credential().is_some()));
    let (before, done) = (ca.issued(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let now = clock::now();
                let due = |task: &Task| task.deadline().is_some_and(|deadline| deadline <= now.instant);
                rotations.iter_mut().filter(|(_, task)| due(task)).for_each(|(_, task)| step(task));
                // Often enough that no task waits long, and seldom enough that the looking costs little.
                thread::sleep(Duration::from_millis(20));
            }
        });
        // The first certificates were issued together: begins once the shortest-lived of them are due.
        while ca.issued() == before {
            thread::sleep(Duration::from_millis(20));
        }
        let before = ca.issued();
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, ca.issued() - before)
    })
}

/// Steps a task, and does its work at once.
fn step(task: &mut Task) {
    for work in task.step(clock::now()) {
        match work {
            Work::Drive(Exchange::Blocking(sign), reporter) => reporter.finish(sign(&Arc::default())),
            Work::Store(job) => job.run(),
            _ => {}
        }
    }
}

/// A CA in memory that is the signer of all rotations.
struct Ca {
    issuer: Issuer,
    next_serial: AtomicU64,
}

impl Ca {
    const FIRST_SERIAL: u64 = 1 << 56;

    fn new() -> Self {
        let key = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let chain = self_signed("bench", &key, &[1], valid_for(HOUR * 2)).unwrap();
        let issuer = Issuer::new(Credential::new(chain, key).unwrap()).unwrap();
        Self { issuer, next_serial: AtomicU64::new(Self::FIRST_SERIAL) }
    }

    fn issued(&self) -> u64 {
        self.next_serial.load(Ordering::Relaxed) - Self::FIRST_SERIAL
    }

    /// A rotation whose certificates are valid for `lifetime`, for both sides of TLS.
    fn rotation(self: &Arc<Self>, name: &str, lifetime: Duration, policy: &Policy) -> (Handle, Task) {
        let ca = self.clone();
        let signer = SignWith::blocking("example.com/bench", move |request, _cancel| {
            let serial = ca.next_serial.fetch_add(1, Ordering::Relaxed);
            let spread =
                if lifetime == LIFETIME { lifetime / 60 * u32::try_from(serial % 50).unwrap() } else { Duration::ZERO };
            let terms = Terms {
                serial: &serial.to_be_bytes(),
                validity: valid_for(lifetime - spread),
                key_usages: &[KeyUsage::DigitalSignature],
                extended_key_usages: &[Usage::ServerAuth, Usage::ClientAuth],
            };
            let asked = read_request(request.csr.pem.as_bytes()).unwrap();
            ca.issuer.issue(&asked, &terms).map_err(|error| SignError::new(Failure::SignerFailed, error.to_string()))
        });
        let template = Template::new(name).with_dns_names([format!("{name}.example")]);
        let signer = signer.usages([Usage::ServerAuth, Usage::ClientAuth]);
        Rotator::new().template(template).policy(policy.clone()).signer(signer).prepare().unwrap()
    }
}

fn valid_for(lifetime: Duration) -> Validity {
    let now = clock::now().unix;
    Validity::new(now.before(Duration::from_secs(1)), now.after(lifetime)).unwrap()
}
