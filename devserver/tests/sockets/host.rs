//! The embedded server over real sockets.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use perennial::{Template, UnixTime};
use perennial_dev::faults::Plan;
use perennial_dev::{Api, ApiRequest, ApiServer, Approval, Authority, Decision, Method, Options, Random, Tls, User};
use perennial_kubernetes::objects::{CSR_PATH, CertificateSigningRequest, CsrSpec};
use perennial_pki::{Credential, KeyAlgorithm, KeyPair, Roots, certificate_request};
use rustls::pki_types::ServerName;
use rustls::time_provider::DefaultTimeProvider;
use rustls::{ClientConnection, StreamOwned};

const TOKEN: &str = "abcdef.0123456789abcdef";

type Stream = BufReader<StreamOwned<ClientConnection, TcpStream>>;

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn serve(options: Options) -> (ApiServer, Roots) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = UnixTime::from_secs(i64::try_from(since.as_secs()).unwrap());
    let hour = Duration::from_secs(3600);
    let mut random = Random::from_os().unwrap();
    let authority = Authority::generate(&mut random, now, hour).unwrap();
    let loopback = "127.0.0.1".parse().unwrap();
    let serving = authority.server_credential(&[], &[loopback], &mut random, now, hour).unwrap();
    let tls = Tls::new(&authority, &serving).unwrap();
    let roots = authority.roots().unwrap();
    let mut api = Api::new(options, authority, random);
    api.add_token(TOKEN, User::bootstrap("abcdef"));
    (ApiServer::start(listener(), api, tls).unwrap(), roots)
}

fn connect(server: &ApiServer, roots: &Roots) -> Stream {
    connect_as(None, server, roots)
}

fn connect_as(credential: Option<&Credential>, server: &ApiServer, roots: &Roots) -> Stream {
    let config = perennial_tests::tls::client(roots, credential, Arc::new(DefaultTimeProvider));
    let name = ServerName::from(server.address().ip());
    let tls = ClientConnection::new(config, name).unwrap();
    let socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    BufReader::new(StreamOwned::new(tls, socket))
}

fn send(stream: &mut Stream, method: &str, target: &str, body: &[u8]) {
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.get_mut().write_all(&[head.as_bytes(), body].concat()).unwrap();
}

/// Reads the head of a response, and the body if it has a Content-Length.
fn receive(stream: &mut Stream) -> (String, Vec<u8>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "the connection broke after {head:?}");
    }
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|length| length.parse().unwrap());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    (head, body)
}

/// Reads one chunk: one event of a watch.
fn event(stream: &mut Stream) -> String {
    let mut length = String::new();
    stream.read_line(&mut length).unwrap();
    let mut chunk = vec![0; usize::from_str_radix(length.trim(), 16).unwrap() + 2];
    stream.read_exact(&mut chunk).unwrap();
    String::from_utf8(chunk).unwrap()
}

fn request(name: &str) -> Vec<u8> {
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let mut object = CertificateSigningRequest {
        spec: CsrSpec {
            request: certificate_request(&Template::node("one"), &key).unwrap().pem.into_bytes(),
            signer_name: "kubernetes.io/kube-apiserver-client-kubelet".into(),
            usages: vec!["digital signature".into(), "client auth".into()],
            ..CsrSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    object.metadata.name = name.into();
    serde_json::to_vec(&object).unwrap()
}

#[test]
fn request_and_watch_over_one_connection_yield_certificate() {
    let (server, roots) = serve(Options::default());
    let mut stream = connect(&server, &roots);
    send(&mut stream, "POST", CSR_PATH, &request("a"));
    let (head, body) = receive(&mut stream);
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    let created: CertificateSigningRequest = serde_json::from_slice(&body).unwrap();

    let version = created.metadata.resource_version;
    send(&mut stream, "GET", &format!("{CSR_PATH}?watch=true&resourceVersion={version}"), b"");
    receive(&mut stream);
    assert!(event(&mut stream).contains("\"Approved\""));
    assert!(event(&mut stream).contains("\"certificate\":"));
    server.shutdown().unwrap();
}

#[test]
fn decision_is_sent_on_every_open_watch() {
    let (server, roots) = serve(Options { approval: Approval::Manual, ..Options::default() });
    let mut streams: Vec<Stream> = (0..20).map(|_| connect(&server, &roots)).collect();
    send(&mut streams[0], "POST", CSR_PATH, &request("a"));
    receive(&mut streams[0]);
    for stream in &mut streams {
        send(stream, "GET", &format!("{CSR_PATH}?watch=true&fieldSelector=metadata.name%3Da"), b"");
        receive(stream);
        assert!(event(stream).contains("ADDED"));
    }
    server.with_api(|api, now| api.decide("a", Decision::Approve, "by the test", now)).unwrap();
    for stream in &mut streams {
        assert!(event(stream).contains("by the test"));
        assert!(event(stream).contains("\"certificate\":"));
    }
}

#[test]
fn watch_sends_delayed_certificate_without_further_requests() {
    let (server, roots) = serve(Options { signing_delay: Duration::from_millis(50), ..Options::default() });
    let mut stream = connect(&server, &roots);
    send(&mut stream, "POST", CSR_PATH, &request("a"));
    receive(&mut stream);
    send(&mut stream, "GET", &format!("{CSR_PATH}?watch=true&resourceVersion=3"), b"");
    receive(&mut stream);
    assert!(event(&mut stream).contains("\"certificate\":"));
}

#[test]
fn shutdown_closes_connections_and_frees_the_address() {
    let (server, roots) = serve(Options::default());
    let mut stream = connect(&server, &roots);
    send(&mut stream, "GET", "/version", b"");
    receive(&mut stream);
    let address = server.address();
    server.shutdown().unwrap();
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn client_still_sending_a_refused_body_reads_the_refusal() {
    let (server, roots) = serve(Options::default());
    let mut stream = connect(&server, &roots);
    let head = format!("POST {CSR_PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n");
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    // The server refuses while the client is still sending: the refusal must not be lost to a reset of the connection.
    let _ = stream.get_mut().write_all(&vec![b'x'; 500_000]);
    assert!(receive(&mut stream).0.starts_with("HTTP/1.1 413"));
}

#[test]
fn client_beyond_connection_limit_gets_429_until_others_leave() {
    let (server, roots) = serve(Options { clients: 2, ..Options::default() });
    let mut held: Vec<Stream> = (0..2).map(|_| connect(&server, &roots)).collect();
    for stream in &mut held {
        send(stream, "GET", "/version", b"");
        assert!(receive(stream).0.starts_with("HTTP/1.1 200"));
    }
    let mut third = connect(&server, &roots);
    send(&mut third, "GET", "/version", b"");
    let (head, body) = receive(&mut third);
    assert!(head.starts_with("HTTP/1.1 429") && head.contains("retry-after: 1\r\n"), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("too many clients are connected"));
    assert!(!matches!(third.read(&mut [0; 1]), Ok(1..)), "and the connection is closed");

    drop((held, third));
    let end = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let mut stream = connect(&server, &roots);
        send(&mut stream, "GET", "/version", b"");
        if receive(&mut stream).0.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(std::time::Instant::now() < end, "nobody has left");
    }
}

/// Opens `count` TCP connections on which the client sends nothing, and `count` TLS connections on which it presents no
/// credential.
fn strangers(count: usize, server: &ApiServer, roots: &Roots) -> (Vec<TcpStream>, Vec<Stream>) {
    let silent = (0..count).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    let mut anonymous: Vec<Stream> = (0..count).map(|_| connect(server, roots)).collect();
    for stream in &mut anonymous {
        // A connection that was closed for another one fails here.
        let _ = stream.get_mut().write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    }
    (silent, anonymous)
}

#[test]
fn unauthenticated_connections_yield_to_new_clients() {
    let (server, roots) = serve(Options { clients: 4, ..Options::default() });
    let mut known: Vec<Stream> = (0..2).map(|_| connect(&server, &roots)).collect();
    for stream in &mut known {
        send(stream, "GET", "/version", b"");
        assert!(receive(stream).0.starts_with("HTTP/1.1 200"));
    }
    let held = strangers(10, &server, &roots);
    // If no old connection were closed, the new clients would wait for a timeout: 10 s in a handshake, minutes between
    // requests.
    let begun = std::time::Instant::now();
    for _ in 0..3 {
        let mut newcomer = connect(&server, &roots);
        send(&mut newcomer, "GET", "/version", b"");
        assert!(receive(&mut newcomer).0.starts_with("HTTP/1.1 200"));
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for stream in &mut known {
        send(stream, "GET", "/version", b"");
        assert!(receive(stream).0.starts_with("HTTP/1.1 200"), "a client with a credential keeps its place");
    }
    drop(held);
}

#[test]
fn flooding_clients_do_not_starve_others() {
    let (server, roots) = serve(Options::default());
    let answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| flood(&mut connect(&server, &roots), &answered));
        }
        std::thread::sleep(Duration::from_millis(100));
        let mut stream = connect(&server, &roots);
        // If the server starved this client, the read would time out.
        let sent = stream.get_mut().write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
        let read = sent.and_then(|()| stream.read(&mut [0]));
        answered.store(true, Ordering::SeqCst);
        assert_eq!(read.unwrap(), 1);
    });
    server.shutdown().unwrap();
}

/// Sends requests without a pause, hundreds ahead of the answers, until `enough` is set.
fn flood(stream: &mut Stream, enough: &AtomicBool) {
    const AHEAD: usize = 1200;
    let requests = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".repeat(AHEAD / 3);
    let mut ahead = 0;
    while !enough.load(Ordering::SeqCst) {
        while ahead < AHEAD {
            stream.get_mut().write_all(requests.as_bytes()).unwrap();
            ahead += AHEAD / 3;
        }
        receive(stream);
        ahead -= 1;
    }
}

#[test]
fn new_connections_use_authorities_given_to_set_tls() {
    let (now, hour) = (perennial_rotation::clock::now().unix, Duration::from_secs(3600));
    let mut random = Random::from_os().unwrap();
    let first = Authority::generate(&mut random, now, hour).unwrap();
    let second = Authority::generate(&mut random, now, hour).unwrap();
    let credential = |authority: &Authority, random: &mut Random| {
        authority.client_credential("admin", &["system:masters"], random, now, hour).unwrap()
    };
    let (old, new) = (credential(&first, &mut random), credential(&second, &mut random));
    let serving = first.server_credential(&[], &["127.0.0.1".parse().unwrap()], &mut random, now, hour).unwrap();
    let (tls, roots) = (Tls::new(&first, &serving).unwrap(), first.roots().unwrap());
    let api = Api::new(Options::default(), first, random);
    let server = ApiServer::start(listener(), api, tls).unwrap();

    let accepts = |credential: &Credential| {
        let mut stream = connect_as(Some(credential), &server, &roots);
        let sent = stream.get_mut().write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").is_ok();
        let mut line = String::new();
        sent && stream.read_line(&mut line).is_ok() && line.starts_with("HTTP/1.1 200")
    };
    assert!(accepts(&old) && !accepts(&new));
    let tls = server.with_api(|api, _| {
        api.rotate_authority(second);
        Tls::new(api.authority(), &serving).unwrap()
    });
    server.set_tls(tls);
    assert!(accepts(&old) && accepts(&new));
    let tls = server.with_api(|api, _| {
        api.forget_previous_authorities();
        Tls::new(api.authority(), &serving).unwrap()
    });
    server.set_tls(tls);
    assert!(!accepts(&old) && accepts(&new));
}

#[test]
fn changed_future_completes_once_the_api_version_rises() {
    let (server, _) = serve(Options::default());
    let version = server.with_api(|api, _| api.version());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| smol::block_on(server.changed(version)));
        server.with_api(|api, now| {
            let mut request = ApiRequest::new(Method::POST, CSR_PATH);
            request.content_type = "application/json".into();
            request.peer = Some(Arc::new(User::new("admin", ["system:masters"])));
            request.body = self::request("a");
            api.handle(&request, now);
        });
        waits.join().unwrap();
    });
    assert!(server.with_api(|api, _| api.version()) > version);
}

#[test]
fn cut_or_reset_fault_breaks_the_answer_within_its_body() {
    for (fault, end) in [("cut", ErrorKind::UnexpectedEof), ("reset", ErrorKind::ConnectionReset)] {
        let (server, roots) = serve(Options::default());
        let plan = Plan::parse(&format!("rules: [{{ fault: {{ {fault}: inBody }} }}]")).unwrap();
        server.with_api(|api, now| api.set_faults(plan, now));
        let mut stream = connect(&server, &roots);
        send(&mut stream, "GET", "/version", b"");
        let mut got = Vec::new();
        assert_eq!(stream.read_to_end(&mut got).unwrap_err().kind(), end, "{fault}");
        let got = String::from_utf8(got).unwrap();
        assert!(got.starts_with("HTTP/1.1 200") && got.contains("\r\n\r\n{"), "{got}");
    }
}
