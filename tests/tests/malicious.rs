//! A node rejects malicious certificates. Its current certificate stays in use and on disk.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial::{Failure, State, UnixTime};
use perennial_dev::Approval;
use perennial_kubernetes::client::{Call, Limits, Request};
use perennial_pki::{BadCertificate, Chain, Credential, Expected, KeyAlgorithm, KeyPair, Usage, read_request};
use perennial_rotation::{Authentication, Directory, DirectoryError, Handle, Identity, Token, clock};
use perennial_std::{Cancel, drive};
use perennial_tests::loopback::{
    BOUND, LoopbackServer, Runtime, TOKEN, issued, node, on_both, serve, stored, waits_for_approval,
};
use perennial_tests::malicious::{Malicious, table};
use serde_json::{Value, json};

const ADMIN: &str = "fedcba.0123456789abcdef";
/// The issuer's name `CN=ca`, in DER.
const ISSUER: [u8; 15] = [0x30, 13, 0x31, 11, 0x30, 9, 6, 3, 0x55, 4, 3, 0x13, 2, b'c', b'a'];

fn key() -> KeyPair {
    KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap()
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}

fn now() -> UnixTime {
    UnixTime::from_secs(clock::now().unix.as_secs())
}

#[test]
fn malicious_certificates_are_rejected_with_reason() {
    let (ca, key) = (key(), key());
    for row in table() {
        let answer = pem(&row.forge(&ca, &ISSUER, key.public_key_der(), now()));
        let expected = Expected {
            public_key_der: key.public_key_der(),
            usages: &[Usage::ClientAuth],
            skew: std::time::Duration::ZERO,
            roots: None,
        };
        let verdict = match Chain::from_issued(answer.as_bytes()) {
            Ok(chain) => expected.check(&chain, now()).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match (row.refused, &verdict) {
            (None, Ok(())) => {}
            (Some(why), Err(error)) if error.contains(why) => {}
            (expected, got) => panic!("{}: expected {expected:?}, got {got:?}", row.name),
        }
        // A pair on disk that Go loads is never rejected.
        let found = Credential::from_pem(format!("{answer}{}", *key.to_pem()).as_bytes());
        match found {
            Err(error) => assert!(!row.go, "{}: {error}", row.name),
            Ok(found) => assert_eq!(
                found.chain().encoding_error().is_none(),
                ["good", "CA", "broken signature"].contains(&row.name),
                "{}: {:?}",
                row.name,
                found.chain().encoding_error()
            ),
        }
    }
}

#[test]
fn broken_signature_is_detected_if_issuer_is_in_chain() {
    let server = serve(Approval::Manual);
    let authority = server.handle.with_api(|api, _| api.authority().to_pem());
    let issuer = Chain::from_pem(authority.as_bytes()).unwrap();
    let (ca, key) = (KeyPair::from_pem(authority.as_bytes()).unwrap(), key());
    let subject = subject_of(&issuer.der()[0]);
    for (name, verdict) in [("good", Ok(())), ("broken signature", Err(BadCertificate::ForeignIssuer { position: 2 }))]
    {
        let row = table().into_iter().find(|row| row.name == name).unwrap();
        let leaf = pem(&row.forge(&ca, &subject, key.public_key_der(), now()));
        let answer = Chain::from_issued(format!("{leaf}{}", issuer.pem()).as_bytes()).unwrap();
        let skew = std::time::Duration::ZERO;
        let public_key_der = key.public_key_der();
        let expected = Expected { public_key_der, usages: &[Usage::ClientAuth], skew, roots: None };
        assert_eq!(expected.check(&answer, now()), verdict, "{name}");
    }
}

/// The subject of a certificate of version 3, in DER: the sixth field of `tbsCertificate` (RFC 5280 §4.1).
fn subject_of(der: &[u8]) -> Vec<u8> {
    let header = |der: &[u8]| match der[1] {
        0x82 => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
        0x81 => (3, usize::from(der[2])),
        short => (2, usize::from(short)),
    };
    let enter = |der: &[u8]| der[header(der).0..].to_vec();
    let mut at = enter(&enter(der));
    for _ in 0..5 {
        let (header, length) = header(&at);
        at.drain(..header + length);
    }
    let (header, length) = header(&at);
    at.truncate(header + length);
    at
}

/// Approves the request `csr` as an administrator, and puts the malicious certificate of `row` into the status of the
/// request.
fn answer(server: &LoopbackServer, csr: &str, row: &Malicious, ca: &KeyPair) {
    let path = format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/{csr}");
    let call = |request| {
        let identity = Identity::Token(Token::new(ADMIN).unwrap());
        let call = Call::new(request, Arc::clone(&server.cluster), identity, Limits::default());
        let answer = drive(call, &Cancel::default(), |_| {}).unwrap().unwrap();
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status < 300, "{}: {body}", row.name);
        serde_json::from_str::<Value>(&body).unwrap()
    };
    let mut object = call(Request::get(path.clone()));
    object["status"]["conditions"] = json!([{ "type": "Approved", "status": "True", "reason": "x", "message": "" }]);
    let mut object = call(Request::put(path.clone() + "/approval", object.to_string().into_bytes()));
    let request = STANDARD.decode(object["spec"]["request"].as_str().unwrap()).unwrap();
    let request = read_request(&request).unwrap();
    let certificate = pem(&row.forge(ca, &ISSUER, &request.public_key_der, now()));
    object["status"]["certificate"] = STANDARD.encode(certificate).into();
    call(Request::put(path + "/status", object.to_string().into_bytes()));
}

/// Starts a node whose requests name a signer that the cluster does not have, so that the test can answer the requests.
fn start(runtime: Runtime, server: &LoopbackServer, path: &std::path::Path) -> Handle {
    let mut node = node(runtime, &server.cluster).stored_in(path);
    let signer = node.signer.as_mut().unwrap();
    signer.signer_name = "example.com/judge".into();
    let token = Token::new(TOKEN).unwrap();
    signer.authentication = Authentication::Other(Arc::new(move || Ok(Identity::Token(token.clone()))));
    node.start()
}

#[test]
fn current_certificate_survives_malicious_successors() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let admin = perennial_dev::User::new("admin", ["system:masters"]);
        server.handle.with_api(|api, _| api.add_token(ADMIN, admin));
        let ca = key();
        let good = table().into_iter().find(|row| row.name == "good").unwrap();
        // This server stores no certificate that cannot be parsed, and nor does a cluster.
        let is_stored = |row: &&Malicious| {
            let answer = pem(&row.forge(&ca, &ISSUER, ca.public_key_der(), now()));
            row.refused.is_some() && Chain::from_issued(answer.as_bytes()).is_ok()
        };
        for row in table().iter().filter(is_stored) {
            let directory = tempfile::tempdir().unwrap();
            let handle = start(runtime, &server, directory.path());
            answer(&server, &waits_for_approval(&handle), &good, &ca);
            let held = issued(&handle, 1);

            handle.rotate_now();
            answer(&server, &waits_for_approval(&handle), row, &ca);
            let refused = |state: &State| matches!(state, State::BackingOff { last: Failure::BadCertificate, .. });
            let after = handle.wait_for(|now| refused(&now.state)).within(BOUND);
            let after = after.unwrap_or_else(|| panic!("{}: {:?}", row.name, handle.snapshot()));
            assert_eq!(after.credential.as_ref().unwrap().chain(), held.chain(), "{}", row.name);
            handle.shutdown().wait();
            assert_eq!(stored(directory.path()).chain(), held.chain(), "{}", row.name);
        }
    });
}

#[test]
fn stored_pair_that_peers_refuse_is_used_and_due() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        for name in ["unknown critical extension", "empty extended key usage", "unique identifier"] {
            let row = table().into_iter().find(|row| row.name == name).unwrap();
            let (directory, ca, key) = (tempfile::tempdir().unwrap(), key(), key());
            let file = directory.path().join("kubelet-client-current.pem");
            let certificate = pem(&row.forge(&ca, &ISSUER, key.public_key_der(), now()));
            std::fs::write(&file, format!("{certificate}{}", *key.to_pem())).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();

            let loaded =
                Directory::open_existing(directory.path(), "kubelet-client").unwrap().load(None, now()).unwrap();
            assert!(matches!(&loaded.problems[..], [DirectoryError::Unserved { .. }]), "{name}: {:?}", loaded.problems);
            let handle = start(runtime, &server, directory.path());
            waits_for_approval(&handle);
            let used = handle.credential().unwrap();
            assert_eq!(used.chain(), loaded.credential.unwrap().0.chain(), "{name}");
            handle.shutdown().wait();
            assert_eq!(stored(directory.path()).chain(), used.chain(), "{name}");
        }
    });
}
