//! Fuzzes the embedded API server with a client that sends any bytes.

mod answers;
mod wire;

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial::Template;
use perennial_dev::{Api, Approval, Options};
use perennial_kubernetes::objects::{CLIENT_SIGNER, CSR_PATH, CertificateSigningRequest, KUBELET_CLIENT_SIGNER};
use perennial_pki::{Chain, certificate_request, read_request};
use serde_json::{Value, json};

use super::pki::Pki;
use super::text;
use wire::{Stage, Wire};

const TOKEN: &str = "abcdef.0123456789abcdef";
/// The index of the administrator in `Stage::clients`.
const ADMIN: u8 = 2;
const CAPACITY: usize = 3;
const MEMORY: usize = 12 << 10;

/// The authority, clients and words that every run of the target shares.
struct Scene {
    stage: Stage,
    words: Vec<Vec<u8>>,
}

static SCENE: LazyLock<Scene> = LazyLock::new(|| {
    let pki = Pki::new();
    Scene { words: words(&pki), stage: Stage::new(&pki) }
});

/// Checks the server with a client that sends any bytes, and has a valid credential or none. The server must answer in
/// HTTP, keep the stored objects within their limits, sign only approved requests, and end the session. The same bytes
/// in smaller portions must get the same answers.
pub fn server(bytes: &[u8]) {
    let scene = &*SCENE;
    let (how, rest) = text::first(bytes);
    let (portion, script) = text::first(rest);
    let pieces: Vec<(u8, Vec<u8>)> = text::pieces(script).map(|piece| scene.piece(piece)).collect();
    let whole = scene.session(how, &pieces, usize::MAX);
    answers::check(&whole);
    if portion > 0 {
        let portion = usize::from(portion);
        let split = scene.session(how, &pieces, portion);
        assert!(
            split == whole,
            "in portions of {portion}:\n{}\nwhole:\n{}",
            split.escape_ascii(),
            whole.escape_ascii()
        );
    }
}

impl Scene {
    /// Decodes a piece of input: one byte, then text. The byte selects the pause before the text, and whether a
    /// `content-length` is added to the text.
    fn piece(&self, bytes: &[u8]) -> (u8, Vec<u8>) {
        let (how, text) = text::first(bytes);
        let mut text = text::expand(text, &self.words);
        if how & 1 != 0
            && let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n")
        {
            let length = format!("\r\ncontent-length: {}", text.len() - end - 4);
            text.splice(end..end, length.into_bytes());
        }
        (how, text)
    }

    /// Runs a session of the embedded server with a client that sends these pieces, at most `portion` bytes at a time.
    /// `how` selects the client, and whether the server approves requests by itself. Returns all bytes of the answers.
    fn session(&self, how: u8, pieces: &[(u8, Vec<u8>)], portion: usize) -> Vec<u8> {
        let options = Options {
            approval: if how & 4 == 0 { Approval::Manual } else { Approval::Auto },
            capacity: CAPACITY,
            history: 4,
            memory: MEMORY,
            watches: 2,
            ..Options::default()
        };
        let mut wire = Wire::new(&self.stage, options, how & 3, portion);
        for (when, text) in pieces {
            wire.pass(Duration::from_secs([0, 1, 59, 3600][usize::from(when >> 1 & 3)]));
            wire.send(text);
            check_store(&wire.api, how & 3 == ADMIN);
        }
        wire.end();
        check_store(&wire.api, how & 3 == ADMIN);
        wire.received
    }
}

fn check_store(api: &Api, by_admin: bool) {
    let requests: Vec<&CertificateSigningRequest> = api.requests().collect();
    assert!(requests.len() <= CAPACITY);
    let size = |object: &CertificateSigningRequest| serde_json::to_vec(object).expect("JSON").len();
    // Conditions and certificates come on top: controllers may always add them.
    let slack = requests.len() * (4 << 10);
    assert!(requests.iter().map(|object| size(object)).sum::<usize>() <= MEMORY + slack);
    for object in requests {
        let has = |kind| object.status.conditions.iter().any(|condition| condition.type_ == kind);
        assert!(!(has("Approved") && has("Denied")), "{object:?}");
        if !by_admin && has("Approved") {
            // The controller approves only requests of nodes for themselves.
            let request = read_request(&object.spec.request).expect("what is stored was read");
            assert!(request.common_name.starts_with("system:node:"), "{object:?}");
            if let Ok(chain) = Chain::from_pem(&object.status.certificate) {
                assert_eq!(chain.public_key_der(), request.public_key_der);
            }
        }
    }
}

/// Words for the client's bytes: header lines with a bearer token, header lines without one, the path of requests, a
/// CSR, and request objects.
fn words(pki: &Pki) -> Vec<Vec<u8>> {
    let object = |name: &str, node: &str, signer: &str, key| {
        let request = certificate_request(&Template::node(node), key).expect("a request");
        json!({
            "metadata": { "name": name },
            "spec": {
                "request": STANDARD.encode(request.pem),
                "signerName": signer,
                "usages": ["digital signature", "client auth"],
            },
        })
    };
    let objects = [
        object("a", "a", KUBELET_CLIENT_SIGNER, &pki.ours),
        object("b", "a", KUBELET_CLIENT_SIGNER, &pki.another),
        object("c", "b", KUBELET_CLIENT_SIGNER, &pki.another),
        object("d", "a", CLIENT_SIGNER, &pki.ours),
    ];
    let mut approved = objects[0].clone();
    approved["status"]["conditions"] = json!([{ "type": "Approved", "status": "True", "reason": "x" }]);
    let request = objects[0]["spec"]["request"].as_str().unwrap_or_default().to_owned();
    let texts = [
        format!("host: x\r\nauthorization: Bearer {TOKEN}\r\n"),
        "host: x\r\ncontent-type: application/json\r\n".to_owned(),
        CSR_PATH.to_owned(),
        request,
        approved.to_string(),
    ];
    texts.into_iter().chain(objects.iter().map(Value::to_string)).map(String::into_bytes).collect()
}
