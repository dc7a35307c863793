//! Two pods that know nothing of perennial: an axum server, and a client that calls it all the time. Both read their
//! certificates and CAs from the files in their volumes.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::{Extension, Router, routing::get};
use axum_server::{tls::TlsInfo, tls_rustls::RustlsConfig};
use perennial_rotation::tls::{client_config, mutual_server_config};
use perennial_rotation::{FileCredential, RootFiles, RootsSource};
use perennial_tests::tls::hex;
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// How often the pods read their files.
pub(crate) const EVERY: Duration = Duration::from_millis(100);
/// The longest that the client waits for bytes of the server.
const SILENCE: Duration = Duration::from_secs(20);

type AnyError = Box<dyn Error + Send + Sync>;

/// The CAs in a file of a volume.
pub(crate) fn roots_in(path: &Path) -> Arc<RootFiles> {
    Arc::new(RootFiles::open([path]).unwrap().every(EVERY))
}

/// Answers with the fingerprint of the client's certificate.
async fn who(tls: Extension<Arc<TlsInfo>>) -> String {
    tls.peer_certificates.first().map_or_else(String::new, |leaf| hex(leaf))
}

/// Starts the server of a pod. Its certificate is a credential bundle; it accepts only clients with a certificate of
/// `roots`. Runs until the process ends.
pub(crate) fn serve(bundle: &Path, roots: impl RootsSource + 'static) -> SocketAddr {
    let files = FileCredential::open_bundle(bundle).unwrap().every(EVERY);
    let tls = mutual_server_config(&files, roots);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let app = Router::new().route("/", get(who));
        tokio::runtime::Runtime::new().unwrap().block_on(async move {
            let serving = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(tls))).unwrap();
            serving.serve(app.into_make_service()).await.unwrap();
        });
    });
    address
}

/// The configuration of a client whose certificate is in two files, and that trusts `roots`. Each call makes a full
/// handshake.
pub(crate) fn client(chain: &Path, key: &Path, roots: impl RootsSource + 'static) -> Arc<ClientConfig> {
    let files = FileCredential::open(chain, key).unwrap().every(EVERY);
    let mut config = client_config(&files, roots);
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Calls the server once. Returns the fingerprints of the certificates that the client and the server saw.
pub(crate) fn call(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Result<[String; 2], AnyError> {
    let tls = ClientConnection::new(config.clone(), name.to_owned().try_into()?)?;
    let tcp = TcpStream::connect_timeout(&address, SILENCE)?;
    tcp.set_read_timeout(Some(SILENCE))?;
    tcp.set_nodelay(true)?;
    let mut stream = StreamOwned::new(tls, tcp);
    // One write, and so one packet: the server would acknowledge the first of several only after a while.
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(head.to_owned().into());
    }
    let server = stream.conn.peer_certificates().and_then(<[_]>::first).ok_or("no certificate")?;
    Ok([hex(server), body.to_owned()])
}

/// A client that calls a server without a pause.
pub(crate) struct Traffic {
    seen: Arc<Mutex<Seen>>,
    is_stopped: Arc<AtomicBool>,
    caller: JoinHandle<()>,
}

/// The calls of a [`Traffic`] so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) calls: usize,
    pub(crate) failures: Vec<String>,
    /// The certificates that the client saw, and those that the server saw: each once, in order.
    pub(crate) certificates: [Vec<String>; 2],
}

impl Traffic {
    pub(crate) fn start(address: SocketAddr, name: &'static str, config: Arc<ClientConfig>) -> Self {
        let (seen, is_stopped) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let caller = thread::spawn({
            let (seen, is_stopped) = (seen.clone(), is_stopped.clone());
            move || {
                while !is_stopped.load(Ordering::Relaxed) {
                    let result = call(address, name, &config);
                    seen.lock().unwrap().note(result);
                }
            }
        });
        Self { seen, is_stopped, caller }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Ends the calls.
    pub(crate) fn stop(self) -> Seen {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.caller.join().unwrap();
        self.seen.lock().unwrap().clone()
    }
}

impl Seen {
    /// The certificates that client and server saw last.
    pub(crate) fn last(&self) -> [Option<&String>; 2] {
        self.certificates.each_ref().map(|seen| seen.last())
    }

    fn note(&mut self, result: Result<[String; 2], AnyError>) {
        self.calls += 1;
        match result {
            Err(error) => self.failures.push(format!("call {}: {error}", self.calls)),
            Ok(seen) => {
                for (known, new) in self.certificates.iter_mut().zip(seen) {
                    if known.last() != Some(&new) {
                        known.push(new);
                    }
                }
            }
        }
    }
}
