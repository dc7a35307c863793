//! `run`, as a process, connects through the proxy that its environment names. The test runs the proxy.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{self, RUN, Signer, start_with, until};
use tempfile::TempDir;

/// Starts an HTTP proxy that connects every client to `server`. Returns the proxy's address, and the heads of the
/// requests that the proxy receives.
fn proxy(server: &str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, heads) = (listener.local_addr().unwrap().to_string(), Arc::<Mutex<Vec<String>>>::default());
    let (server, lines) = (server.to_owned(), heads.clone());
    thread::spawn(move || {
        for client in listener.incoming().map(Result::unwrap) {
            let (server, lines) = (server.clone(), lines.clone());
            thread::spawn(move || through(client, &server, &lines));
        }
    });
    (address, heads)
}

fn through(mut client: TcpStream, server: &str, lines: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    lines.lock().unwrap().push(String::from_utf8(head).unwrap());
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let mut server = TcpStream::connect(server)?;
    let (mut back, mut to) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut back, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    io::copy(&mut client, &mut server)?;
    server.shutdown(Shutdown::Both)
}

/// URL of an API server whose name does not resolve, so that only the test's proxy leads to the server.
const SERVER: &str = "https://api.invalid:6443";
const RETRY: [&str; 2] = ["--retry", "100ms-1s"];

/// Writes a bootstrap kubeconfig for [`SERVER`], with these additional fields in its cluster.
fn bootstrap(directory: &Path, cluster: &str) {
    support::bootstrap(
        directory,
        SERVER,
        &format!(", tls-server-name: localhost, certificate-authority: signer/ca.crt{cluster}"),
    );
}

/// From the field, an HTTPS_PROXY that is ignored: <https://github.com/k3s-io/k3s/issues/352>
#[test]
fn https_proxy_of_environment_is_used() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    let (address, heads) = proxy(signer.address());
    bootstrap(path, "");
    let variable = format!("http://me:s3cret@{address}");
    let mut run =
        start_with(path, &[RUN.as_slice(), &RETRY].concat(), &[("HTTPS_PROXY", &variable), ("NO_PROXY", "10.0.0.0/8")]);
    run.event("issued", 1);
    assert_eq!(run.event("started", 1)["proxy"], format!("http://{address}"));
    let line = format!("connecting to https://api.invalid:6443 through the proxy http://{address} (HTTPS_PROXY)");
    run.logged(&line);
    assert!(!run.stderr().contains("s3cret") && !run.stdout().contains("s3cret"));
    let head = heads.lock().unwrap()[0].clone();
    assert!(head.starts_with("CONNECT api.invalid:6443 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic bWU6czNjcmV0\r\n"), "{head}");
    // A written kubeconfig does not contain the proxy of the environment.
    let written = until("kubeconfig", || fs::read_to_string(path.join("kubeconfig")).ok());
    assert!(!written.contains("proxy-url"), "{written}");
}

#[test]
fn proxy_url_and_proxy_flag_override_https_proxy() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    let (address, heads) = proxy(signer.address());
    let variable = format!("http://{address}");
    bootstrap(path, "");
    for (more, no_proxy) in [(&["--proxy=none"][..], ""), (&[], "invalid"), (&[], "*")] {
        let run = [RUN.as_slice(), &RETRY, more].concat();
        let mut run = start_with(path, &run, &[("HTTPS_PROXY", &variable), ("NO_PROXY", no_proxy)]);
        assert!(run.event("started", 1)["proxy"].is_null(), "{more:?} {no_proxy}");
        assert_eq!(heads.lock().unwrap().len(), 0);
    }
    bootstrap(path, &format!(", proxy-url: '{variable}'"));
    let run = [RUN.as_slice(), &RETRY, &["--once", "--proxy=none"]].concat();
    let other = [("HTTPS_PROXY", "socks5://elsewhere"), ("NO_PROXY", "*")];
    assert_eq!(start_with(path, &run, &other).end().code, Some(0));
    assert!(!heads.lock().unwrap().is_empty());
}

#[test]
fn unusable_proxy_of_environment_ends_run_with_code_2() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    bootstrap(path, "");
    let ended =
        start_with(path, &[RUN.as_slice(), &RETRY].concat(), &[("HTTPS_PROXY", "socks5://u:s3cret@p:1080")]).end();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("HTTPS_PROXY: only HTTP proxies are supported"), "{}", ended.stderr);
    assert!(ended.stderr.contains("--proxy=none") && !ended.stderr.contains("s3cret"), "{}", ended.stderr);
    assert!(!path.join("pki").exists());
}
