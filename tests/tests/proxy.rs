//! Connections through a proxy, on both runtimes: real sockets, and TLS from end to end.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use perennial::{Failure, State};
use perennial_dev::Approval;
use perennial_kubernetes::cluster::{Cluster, Proxy};
use perennial_tests::address;
use perennial_tests::loopback::{BOUND, issued, node, on_both, serve};

const OPEN: &str = "HTTP/1.1 200 OK\r\nVia: 1.1 proxy\r\n\r\n";

/// A test proxy that records the heads of the requests that it receives.
struct HttpProxy {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl HttpProxy {
    /// A proxy that answers CONNECT with `answer`, and forwards bytes if that is a 200.
    fn answering(answer: &'static str) -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), answer)
    }

    fn at(address: SocketAddr, answer: &'static str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let (address, requests) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let heads = requests.clone();
        thread::spawn(move || {
            for client in listener.incoming().map(Result::unwrap) {
                let heads = heads.clone();
                thread::spawn(move || through(client, answer, &heads));
            }
        });
        Self { address, requests }
    }

    fn lines(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|head| head.lines().next().unwrap().to_owned()).collect()
    }
}

fn through(mut client: TcpStream, answer: &str, heads: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    heads.lock().unwrap().push(head.clone());
    // One byte at a time, as a network may deliver them.
    client.set_nodelay(true).ok()?;
    answer.bytes().try_for_each(|byte| client.write_all(&[byte])).ok()?;
    if !answer.contains(" 200 ") {
        return client.shutdown(Shutdown::Both).ok();
    }
    let mut server = TcpStream::connect(head.split(' ').nth(1)?).ok()?;
    let (mut back, mut to) = (server.try_clone().ok()?, client.try_clone().ok()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut back, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut client, &mut server);
    server.shutdown(Shutdown::Both).ok()
}

fn behind(cluster: &Cluster, proxy: &HttpProxy) -> Arc<Cluster> {
    let proxy = Proxy::from_url(&format!("http://me:secret@{}", proxy.address)).unwrap();
    Arc::new(cluster.clone().with_proxy(proxy))
}

#[test]
fn node_rotates_through_a_proxy() {
    on_both(|runtime| {
        let server = serve(Approval::Auto);
        let proxy = HttpProxy::answering(OPEN);
        let handle = node(runtime, &behind(&server.cluster, &proxy)).start();
        issued(&handle, 1);
        handle.rotate_now();
        issued(&handle, 2);
        handle.shutdown().wait();
        let connect = format!("CONNECT {} HTTP/1.1", server.handle.address());
        assert_eq!(proxy.lines(), [connect.clone(), connect]);
        assert!(proxy.requests.lock().unwrap()[0].contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"));
    });
}

#[test]
fn error_of_proxy_refusal_names_the_proxy() {
    on_both(|runtime| {
        let server = serve(Approval::Auto);
        let proxy = HttpProxy::answering("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
        let handle = node(runtime, &behind(&server.cluster, &proxy)).start();
        let failed = |now: &perennial_rotation::Snapshot| {
            matches!(now.state, State::BackingOff { last: Failure::Unreachable, .. })
        };
        let now = handle.wait_for(failed).within(BOUND).unwrap();
        let why = now.last_error.clone().unwrap();
        assert!(
            why.contains(&format!("the proxy http://{} refused the credentials or requires some", proxy.address)),
            "{why}"
        );
        assert!(!why.contains("secret"), "{why}");
        handle.shutdown().wait();
    });
}

#[test]
fn connection_is_retried_until_proxy_starts() {
    on_both(|runtime| {
        let server = serve(Approval::Auto);
        let address = address::unused();
        let proxy = Proxy::from_url(&format!("http://{address}")).unwrap();
        let handle = node(runtime, &Arc::new((*server.cluster).clone().with_proxy(proxy))).start();
        let refused = handle.wait_for(|now| now.last_error.is_some()).within(BOUND).unwrap();
        let why = format!("cannot connect to the proxy http://{address}");
        assert!(refused.last_error.as_ref().unwrap().contains(&why), "{refused:?}");
        let proxy = HttpProxy::at(address, OPEN);
        issued(&handle, 1);
        assert_eq!(proxy.lines(), [format!("CONNECT {} HTTP/1.1", server.handle.address())]);
        handle.shutdown().wait();
    });
}
