//! The clients of the benchmark: many nodes on one thread, and single connections, some of which never read an answer.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial::Template;
use perennial_kubernetes::client::{DesiredCsr, Issuance, Limits, csr_name};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::objects::{CSR_PATH, KUBELET_CLIENT_SIGNER};
use perennial_pki::{KeyAlgorithm, KeyPair, certificate_request, provider};
use perennial_rotation::{Identity, Progress, SignerConversation as _, Token};
use rustix::net::sockopt;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use smol::LocalExecutor;

use crate::process::{ADMIN_TOKEN, Server, TOKEN};

/// Many nodes on one thread that request their first certificates.
pub(crate) struct Crowd {
    nodes: Vec<Issuance>,
    count: usize,
    executor: LocalExecutor<'static>,
    waiting: Rc<Cell<usize>>,
    done: Rc<Cell<usize>>,
}

impl Crowd {
    /// Makes `count` nodes with their keys.
    pub(crate) fn new(server: &Server, count: usize) -> Self {
        let cluster = Cluster::from_url(&format!("https://{}", server.address)).unwrap();
        let cluster = Arc::new(cluster.with_roots(server.authority.clone()));
        let node = |index| {
            let identity = Identity::Token(Token::new(TOKEN).unwrap());
            Issuance::new(desired_csr(index), Arc::clone(&cluster), identity, Limits::default(), index as u64)
        };
        Self {
            nodes: (0..count).map(node).collect(),
            count,
            executor: LocalExecutor::new(),
            waiting: Rc::default(),
            done: Rc::default(),
        }
    }

    /// Lets all nodes submit their requests at once. Returns once each request waits for approval.
    pub(crate) fn submit(&mut self) {
        for node in self.nodes.drain(..) {
            let (waiting, done) = (Rc::clone(&self.waiting), Rc::clone(&self.done));
            let client = async move {
                let mut waits = false;
                let notice = |node: &Issuance| {
                    let now = matches!(node.progress(), Progress::WaitingForApproval { .. });
                    if now && !std::mem::replace(&mut waits, true) {
                        waiting.set(waiting.get() + 1);
                    }
                };
                perennial_smol::drive(node, notice).await.unwrap();
                done.set(done.get() + 1);
            };
            self.executor.spawn(client).detach();
        }
        self.run_until(&self.waiting);
    }

    /// Waits until each node has its certificate.
    pub(crate) fn receive(&self) {
        self.run_until(&self.done);
    }

    fn run_until(&self, counter: &Cell<usize>) {
        while counter.get() < self.count {
            smol::block_on(self.executor.tick());
        }
    }
}

fn desired_csr(index: usize) -> DesiredCsr {
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let template = Template::node(&format!("node-{index}"));
    let usages = vec!["digital signature".to_owned(), "client auth".to_owned()];
    DesiredCsr {
        name: csr_name(key.public_key_der(), template.common_name(), template.organizations(), &usages),
        request: certificate_request(&template, &key).unwrap(),
        signer_name: KUBELET_CLIENT_SIGNER.to_owned(),
        usages,
        expiration_seconds: None,
        skew: Duration::from_secs(60),
    }
}

/// A client with one TLS connection for any number of HTTP requests.
pub(crate) struct Client(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Client {
    pub(crate) fn connect(server: &Server) -> Self {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(server.authority.store())
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let name = ServerName::from(server.address.ip());
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(server.address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(BufReader::new(StreamOwned::new(tls, socket)))
    }

    /// Sends a GET without reading the answer.
    pub(crate) fn ask(&mut self, target: &str) {
        self.send(&format!("GET {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\r\n"));
    }

    /// Sends a GET and reads the answer.
    pub(crate) fn get(&mut self, target: &str) {
        self.ask(target);
        self.answer();
    }

    /// Approves the request object of this name, as an administrator.
    pub(crate) fn approve(&mut self, name: &str) {
        let body = r#"{"status":{"conditions":[{"type":"Approved","status":"True","reason":"Told"}]}}"#;
        self.send(&format!(
            "PATCH {CSR_PATH}/{name}/approval HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\
             content-type: application/merge-patch+json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        self.answer();
    }

    fn send(&mut self, request: &str) {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        self.0.get_mut().flush().unwrap();
    }

    fn answer(&mut self) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).unwrap(), 0, "the connection broke after {head:?}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        match head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
            Some(length) => self.skip(length.parse().unwrap()),
            None => while self.skip_chunk() > 0 {},
        }
    }

    fn skip_chunk(&mut self) -> usize {
        let mut size = String::new();
        self.0.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        self.skip(size + 2);
        size
    }

    fn skip(&mut self, length: usize) {
        let skipped = std::io::copy(&mut self.0.by_ref().take(length as u64), &mut std::io::sink()).unwrap();
        assert_eq!(skipped, length as u64);
    }

    /// The durations of `times` GETs, sorted.
    pub(crate) fn latencies(&mut self, target: &str, times: usize) -> Vec<Duration> {
        let mut took: Vec<Duration> = std::iter::repeat_with(|| {
            let begun = Instant::now();
            self.get(target);
            begun.elapsed()
        })
        .take(times)
        .collect();
        took.sort();
        took
    }
}

/// A client that sends a LIST (`index` is even) or a WATCH (`index` is odd) of all objects, and never reads the answer.
pub(crate) fn stuck(server: &Server, index: usize) -> Client {
    let mut client = Client::connect(server);
    // A small buffer: bytes that the client's kernel buffers are not in the server's memory.
    sockopt::set_socket_recv_buffer_size(client.0.get_ref().get_ref(), 4096).unwrap();
    let target = if index.is_multiple_of(2) { CSR_PATH.to_owned() } else { format!("{CSR_PATH}?watch=true") };
    client.ask(&target);
    client
}
