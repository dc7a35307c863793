//! An HTTP/1.1 server for scrapers and probes: GET and HEAD, one answer per connection, five seconds each.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::report::json_line;
use httparse::{EMPTY_HEADER, Error, Request, Status};
use serde_json::Value;
use smol::future::or;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use smol::{Async, LocalExecutor, Task, Timer};

use super::hosts::Hosts;
use crate::reactor;

/// Longest request head, in bytes.
const LONGEST_HEAD: usize = 8 * 1024;
/// Most header fields of a request.
const MOST_FIELDS: usize = 100;
/// Most connections served at a time. If one more connection is accepted, the oldest is closed.
const MOST_CLIENTS: usize = 32;
/// Time limit of a connection, from accept to close.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Pause after a failed accept: most likely no descriptor is free, and accept would fail again at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// An HTTP response.
pub(super) struct Response {
    pub(super) status: &'static str,
    /// The Content-Type.
    kind: &'static str,
    /// Further header fields, each with its line end.
    more: String,
    pub(super) body: String,
}

/// Header fields of a page for browsers, beside its Content-Security-Policy: the page is not cached, not shown inside
/// another page, and not taken for another type, and the address of the node is not sent to other sites.
const PAGE_FIELDS: &str = "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\n\
    X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n";

impl Response {
    /// A response to a probe: 200 if `good`, else 503.
    pub(super) fn text(good: bool, body: String) -> Self {
        Self::plain(if good { "200 OK" } else { "503 Service Unavailable" }, body)
    }

    /// A page in Prometheus' text format.
    pub(super) fn exposition(body: String) -> Self {
        Self::ok("text/plain; version=0.0.4; charset=utf-8", body)
    }

    /// One line of JSON.
    pub(super) fn json(value: &Value) -> Self {
        Self::ok("application/json", json_line(value))
    }

    /// A page for browsers, with this Content-Security-Policy.
    pub(super) fn html(policy: &str, body: String) -> Self {
        let more = format!("Content-Security-Policy: {policy}\r\n{PAGE_FIELDS}");
        Self { more, ..Self::ok("text/html; charset=utf-8", body) }
    }

    fn ok(kind: &'static str, body: String) -> Self {
        Self { status: "200 OK", kind, more: String::new(), body }
    }

    /// Returns the answer to a request whose `Host` is not a name of this node, in the place of this response. A probe
    /// gets the status of this response without the text, and a request for another path gets 421 (RFC 9110, section
    /// 15.5.20).
    fn for_other_name(self, path: &str) -> Self {
        let why = "the Host header is no name of this node: use its address, or add the name with --metrics-host\n";
        match path {
            "/healthz" | "/readyz" => Self::status_only(self.status),
            _ => Self::plain("421 Misdirected Request", why.into()),
        }
    }

    fn status_only(status: &'static str) -> Self {
        Self::plain(status, format!("{status}\n"))
    }

    fn plain(status: &'static str, body: String) -> Self {
        Self { status, ..Self::ok("text/plain; charset=utf-8", body) }
    }

    fn bytes(&self, with_body: bool) -> Vec<u8> {
        let Self { status, kind, more, body } = self;
        // RFC 9110, section 15.5.6: 405 names the allowed methods.
        let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
        let length = body.len();
        let head = format!("Content-Type: {kind}\r\nContent-Length: {length}\r\n{allow}{more}Connection: close\r\n");
        format!("HTTP/1.1 {status}\r\n{head}\r\n{}", if with_body { body } else { "" }).into_bytes()
    }
}

/// Starts a thread that answers requests with `find(path, query)`, or with 404 if `find` returns `None`. If the Host of a
/// request is not in `hosts`, a probe gets its status without a text, and a request for another path gets 421.
///
/// # Errors
/// If the system refuses a descriptor or a thread.
pub(super) fn serve(
    listener: TcpListener,
    hosts: Hosts,
    find: impl Fn(&str, &str) -> Option<Response> + Send + 'static,
) -> io::Result<()> {
    let answer = move |head: &[u8]| answer(head, &hosts, &find);
    reactor::start().map_err(|failure| io::Error::other(failure.to_string()))?;
    let listener = Async::try_from(listener)?;
    let spawned = thread::Builder::new().name("metrics".into()).spawn(move || {
        let executor = LocalExecutor::new();
        smol::block_on(executor.run(accept(&executor, &listener, Rc::new(answer))));
    });
    spawned.map(drop).map_err(|error| io::Error::other(format!("cannot start a thread: {error}")))
}

/// Accepts connections for ever, and answers each on a task of its own.
async fn accept(
    executor: &LocalExecutor<'_>,
    listener: &Async<TcpListener>,
    answer: Rc<impl Fn(&[u8]) -> Option<Vec<u8>> + 'static>,
) {
    let mut clients = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            Timer::after(ACCEPT_RETRY).await;
            continue;
        };
        clients.retain(|client: &Task<_>| !client.is_finished());
        if clients.len() >= MOST_CLIENTS {
            // The oldest is idle or stuck: a probe would have been answered by now. Dropping its task closes it.
            clients.pop_front();
        }
        let answer = answer.clone();
        let timed_out = async {
            Timer::after(TIME_LIMIT).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        // The result of the task is of no use: a client that disconnected or timed out sends its request again.
        clients.push_back(executor.spawn(async move { or(converse(stream, &*answer), timed_out).await }));
    }
}

/// Reads one request head from a connection, and sends the answer.
async fn converse(mut stream: Async<TcpStream>, answer: &impl Fn(&[u8]) -> Option<Vec<u8>>) -> io::Result<()> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    let answer = loop {
        if let Some(answer) = answer(&head) {
            break answer;
        }
        match stream.read(&mut part).await? {
            0 => return Ok(()),
            count => head.extend_from_slice(&part[..count]),
        }
    };
    stream.write_all(&answer).await?;
    stream.get_ref().shutdown(Shutdown::Write)?;
    // Closing with unread input resets the connection, and the client may lose the answer (RFC 9112, section 9.6).
    while stream.read(&mut part).await? > 0 {}
    Ok(())
}

/// Returns the bytes of the answer to a request head; `None` if the head is not complete yet, and more of it has to be
/// read.
fn answer(head: &[u8], hosts: &Hosts, find: &impl Fn(&str, &str) -> Option<Response>) -> Option<Vec<u8>> {
    let mut fields = [EMPTY_HEADER; MOST_FIELDS];
    let mut request = Request::new(&mut fields);
    let parsed = request.parse(head);
    let answer = match (parsed, request.method, request.path) {
        (Ok(Status::Complete(_)), Some("GET" | "HEAD"), Some(target)) => {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let host = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case("host"));
            // Called for unknown host names as well: a probe with an unknown name still gets the status of its answer.
            let found = find(path, query).unwrap_or_else(|| Response::status_only("404 Not Found"));
            if hosts.include(host.map(|field| field.value)) { found } else { found.for_other_name(path) }
        }
        (Ok(Status::Complete(_)), ..) => Response::status_only("405 Method Not Allowed"),
        (Ok(Status::Partial), ..) if head.len() < LONGEST_HEAD => return None,
        (Ok(Status::Partial) | Err(Error::TooManyHeaders), ..) => {
            Response::status_only("431 Request Header Fields Too Large")
        }
        (Err(_), ..) => Response::status_only("400 Bad Request"),
    };
    // RFC 9110, section 9.3.2: HEAD gets the header fields of GET, without the body.
    Some(answer.bytes(request.method != Some("HEAD")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(head: &str) -> Option<String> {
        let find = |path: &str, _: &str| (path == "/here").then(|| Response::text(true, "found\n".into()));
        answer(head.as_bytes(), &Hosts::new([]), &find).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn head_request_is_answered_as_get_without_body() {
        let get = answered("GET /here HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        assert!(get.starts_with("HTTP/1.1 200 OK\r\n") && get.ends_with("\r\n\r\nfound\n"), "{get}");
        let head = answered("HEAD /here?x=y HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(head, get.strip_suffix("found\n").unwrap());
        assert!(head.contains("Content-Length: 6\r\n"), "{head}");
    }

    #[test]
    fn invalid_request_gets_400_404_405_or_431() {
        let many = "A: b\r\n".repeat(MOST_FIELDS + 1);
        let long = "a".repeat(LONGEST_HEAD);
        for (head, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "404 "),
            ("GET /here/ HTTP/1.1\r\n\r\n", "404 "),
            ("POST /here HTTP/1.1\r\nContent-Length: 9\r\n\r\n", "405 "),
            ("GET  /here HTTP/1.1\r\n\r\n", "400 "),
            ("GET /here HTTP/2.0\r\n\r\n", "400 "),
            ("\x16\x03\x01\x02", "400 "),
            (&format!("GET /here HTTP/1.1\r\n{many}\r\n"), "431 "),
            (&format!("GET /here HTTP/1.1\r\nA: {long}"), "431 "),
        ] {
            let answer = answered(head).unwrap_or_default();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head:.60}: {answer}");
        }
        assert!(answered("POST /here HTTP/1.1\r\n\r\n").unwrap().contains("\r\nAllow: GET, HEAD\r\n"));
    }

    #[test]
    fn unknown_host_header_gets_421_except_for_probes() {
        let find = |path: &str, _: &str| Some(Response::text(path != "/readyz", "secret\n".into()));
        for (path, status) in [("/state", "421 "), ("/metrics", "421 "), ("/healthz", "200 "), ("/readyz", "503 ")] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n");
            let answer = String::from_utf8(answer(head.as_bytes(), &Hosts::new([]), &find).unwrap()).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && !answer.contains("secret"), "{answer}");
        }
    }

    #[test]
    fn incomplete_request_head_gets_no_answer() {
        let whole = "GET /here HTTP/1.1\r\nHost: localhost\r\n\r\n";
        for cut in 0..whole.len() {
            assert_eq!(answered(&whole[..cut]), None, "{cut}");
        }
    }
}
