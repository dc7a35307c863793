//! Replacement of the certificate authority while the server runs.

use std::sync::Arc;
use std::time::Duration;

use crate::support::wire::{Clock, Wire, client};
use crate::support::*;
use perennial::{Instant, Template};
use perennial_dev::{Authority, Options, Random, Session, Tls};
use perennial_pki::{Chain, Credential, Expected, Roots, Usage};

fn authority(seed: u8) -> (Authority, Random) {
    let mut random = Random::from_seed([seed; 32]);
    (Authority::generate(&mut random, NOW, YEAR).unwrap(), random)
}

/// Requests a node's certificate. Returns its chain and its public key.
fn issue(server: &mut Server, name: &str) -> (Chain, Vec<u8>) {
    let key = key();
    let pem = request(&Template::node("one"), &key);
    let (status, answer) = server.create(&Role::Bootstrap, &csr(name, KUBELET_CLIENT, &CLIENT_USAGES, &pem));
    assert_eq!(status, 201, "{answer}");
    (server.chain(name).unwrap(), key.public_key_der().to_vec())
}

fn verifies((chain, key): &(Chain, Vec<u8>), roots: &Roots) -> bool {
    let expected =
        Expected { public_key_der: key, usages: &[Usage::ClientAuth], skew: Duration::ZERO, roots: Some(roots) };
    expected.check(chain, NOW).is_ok()
}

#[test]
fn new_authority_signs_and_old_one_is_trusted_until_forgotten() {
    let mut server = Server::new(Options::default());
    let old_roots = server.api.authority().roots().unwrap();
    let before = issue(&mut server, "before");

    let (new, _) = authority(1);
    let new_roots = new.roots().unwrap();
    server.api.rotate_authority(new);
    let after = issue(&mut server, "after");
    assert!(verifies(&after, &new_roots) && !verifies(&after, &old_roots));
    let both = server.api.authority().roots().unwrap();
    assert!(verifies(&before, &both) && verifies(&after, &both));

    server.api.forget_previous_authorities();
    let one = server.api.authority().roots().unwrap();
    assert!(!verifies(&before, &one) && verifies(&after, &one));
    assert_eq!(one.pem(), server.api.authority().certificate_pem());
}

#[test]
fn earlier_authorities_stay_trusted_over_several_rotations() {
    let mut server = Server::new(Options::default());
    let first = server.api.authority().to_pem();
    for next in [authority(1).0, authority(2).0, Authority::from_pem(&first).unwrap()] {
        server.api.rotate_authority(next);
    }
    let roots = server.api.authority().roots().unwrap();
    assert_eq!(roots.pem().matches("BEGIN CERTIFICATE").count(), 3);
    assert!(roots.pem().starts_with(server.api.authority().certificate_pem()));
}

/// True if the server accepts the client certificate `credential` in a new TLS session.
fn accepts(wire: &mut Wire, serving: &Credential, credential: &Credential) -> bool {
    let tls = Tls::with_clock(wire.api.authority(), serving, Arc::new(Clock)).unwrap();
    wire.session = Session::new(&tls, Instant::default()).unwrap();
    wire.client = client(wire.api.authority(), Some(credential));
    wire.error = None;
    let answer = wire.exchange(b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n");
    wire.error.is_none() && answer.starts_with("HTTP/1.1 200")
}

#[test]
fn client_certificates_work_until_their_authority_is_forgotten() {
    let mut old = None;
    let mut wire = Wire::with_client(Options::default(), usize::MAX, |authority, random| {
        old = authority.client_credential("joe", &["dev"], random, NOW, DAY).ok();
        old.clone()
    });
    let old = old.unwrap();
    let (new, mut random) = authority(1);
    let serving = new.server_credential(&["localhost"], &[], &mut random, NOW, DAY).unwrap();
    let fresh = new.client_credential("joe", &["dev"], &mut random, NOW, DAY).unwrap();
    wire.api.rotate_authority(new);
    assert!(accepts(&mut wire, &serving, &old) && accepts(&mut wire, &serving, &fresh));
    wire.api.forget_previous_authorities();
    assert!(!accepts(&mut wire, &serving, &old) && accepts(&mut wire, &serving, &fresh));
}
