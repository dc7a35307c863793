//! The chunking law for the server: the answers do not depend on how the bytes are split. A request that is cut off is
//! not carried out, and damaged bytes get HTTP answers or none.

use std::io::Write;

use crate::support::text::*;
use crate::support::wire::Wire;
use crate::support::*;
use perennial_dev::{Session, User};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A POST of a request object named `c`, with a chunked body.
fn chunked() -> String {
    let body = node_csr("a", "one").to_string().replace("\"a\"", "\"c\"");
    let (start, end) = body.split_at(300);
    let head = format!(
        "POST {COLLECTION} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    format!("{head}{:x}\r\n{start}\r\n{:x};x=y\r\n{end}\r\n0\r\nx-trailer: 1\r\n\r\n", start.len(), end.len())
}

/// A PATCH that adds a label to the object named `a`.
fn patch() -> String {
    let patch = r#"{"metadata":{"labels":{"x":"y"}}}"#;
    format!(
        "PATCH {COLLECTION}/a HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/merge-patch+json\r\ncontent-length: {}\r\n\r\n{patch}",
        patch.len()
    )
}

/// Messages of clients: requests that are carried out, requests that are refused, and bytes that end the connection.
fn pool() -> Vec<Vec<u8>> {
    [
        post(&node_csr("a", "one")),
        post(&node_csr("b", "two")),
        chunked(),
        patch(),
        get(COLLECTION),
        get(&format!("{COLLECTION}/a")),
        get(&format!("{COLLECTION}?watch=true&timeoutSeconds=1")),
        get("/openapi/v3"),
        get("/version").replace("GET", "HEAD"),
        get("/healthz").replace("authorization", "x"),
        get("/version").replace(TOKEN, "nobody"),
        "GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into(),
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc".into(),
        "this is no HTTP\r\n\r\n".into(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// Sends the plaintext `bytes` to the server. Returns the answers, and whether the server closed the connection. The
/// client ends a TLS record at each of `cuts`. At most `piece` bytes move at once.
fn answers(bytes: &[u8], cuts: &[usize], piece: usize) -> (String, bool) {
    let mut wire = Wire::new(manual(), piece);
    wire.exchange(b"");
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
    cuts.sort_unstable();
    for range in cuts.windows(2).map(|ends| ends[0]..ends[1]) {
        wire.client.writer().write_all(&bytes[range]).unwrap();
        wire.pump();
    }
    (String::from_utf8_lossy(&std::mem::take(&mut wire.received)).into_owned(), wire.session.is_closed())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn any_split_of_any_requests_gives_the_same_answers(
        requests in vec(select(pool()), 1..6),
        cuts in vec(any::<usize>(), 0..20),
        piece in prop_oneof![1_usize..40, 40_usize..20_000],
    ) {
        let bytes = requests.concat();
        prop_assert_eq!(answers(&bytes, &cuts, piece), answers(&bytes, &[], usize::MAX));
    }

    #[test]
    fn requests_with_one_damaged_byte_get_http_answers_or_none(
        requests in vec(select(pool()), 1..4),
        at in any::<usize>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = requests.concat();
        let at = at % bytes.len();
        bytes[at] = byte;
        let (text, _) = answers(&bytes, &[at], usize::MAX);
        prop_assert!(text.is_empty() || text.starts_with("HTTP/1.1 "), "{}", text);
    }
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    let request = format!("\r\n\n\r\n{}", get("/version"));
    for text in [&request, "\r\n\r\nGET \u{2}", "\n\n\r"] {
        let bytes = text.as_bytes();
        let whole = answers(bytes, &[], usize::MAX);
        assert_eq!(answers(bytes, &(0..bytes.len()).collect::<Vec<_>>(), 1), whole);
        assert_eq!(whole.0.starts_with("HTTP/1.1 200"), text == request, "{}", whole.0);
    }
}

#[test]
fn request_cut_off_anywhere_is_not_carried_out() {
    let request = post(&node_csr("a", "one"));
    for length in 0..=request.len() {
        let mut wire = Wire::new(manual(), usize::MAX);
        let text = wire.exchange(&request.as_bytes()[..length]);
        wire.session.receive_eof();
        wire.pump();
        let whole = length == request.len();
        assert_eq!(wire.api.requests().count(), usize::from(whole), "{length}");
        assert_eq!(text.starts_with("HTTP/1.1 201"), whole, "{length}: {text}");
        assert!(wire.session.is_closed(), "{length}");
    }
}

#[test]
fn only_complete_requests_of_cut_pipeline_are_carried_out() {
    const ADMIN: &str = "administrator";
    let requests = [post(&node_csr("a", "one")), patch().replace(TOKEN, ADMIN), chunked()];
    let bytes = requests.concat();
    let ends = requests.each_ref().map(String::len);
    let [created, patched, all] = [ends[0], ends[0] + ends[1], bytes.len()];
    // The test above cuts the first request everywhere.
    for length in created..=all {
        let mut wire = Wire::new(manual(), usize::MAX);
        wire.api.add_token(ADMIN, User::new("admin", ["system:masters"]));
        let text = wire.exchange(&bytes.as_bytes()[..length]);
        wire.session.receive_eof();
        wire.pump();
        let labelled = |name: &str| {
            let object = wire.api.requests().find(|object| object.metadata.name == name)?;
            Some(serde_json::to_value(object).unwrap()["metadata"]["labels"]["x"] == "y")
        };
        let expected = [Some(length >= patched), (length == all).then_some(false)];
        assert_eq!([labelled("a"), labelled("c")], expected, "{length}");
        let done = [created, patched, all].into_iter().filter(|end| *end <= length).count();
        assert_eq!(text.matches("HTTP/1.1 20").count(), done, "{length}: {text}");
        assert!(wire.session.is_closed(), "{length}");
    }
}

#[test]
fn bytes_other_than_tls_get_an_alert_at_most() {
    let wire = Wire::new(manual(), usize::MAX);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let outcome = runner.run(&vec(vec(any::<u8>(), 0..200), 0..6), |pieces| {
        let mut session = Session::new(&wire.tls, wire.now().instant).unwrap();
        pieces.iter().for_each(|piece| session.receive(piece));
        let mut out = Vec::new();
        session.transmit(&mut out, wire.now().instant);
        prop_assert!(out.len() < 100, "an alert at most");
        Ok(())
    });
    outcome.unwrap();
}
