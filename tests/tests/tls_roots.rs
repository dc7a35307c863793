//! TLS configurations that are made once. Meanwhile the certificates of both sides are replaced, and so are the CAs
//! that verify the certificates.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial::Template;
use perennial_dev::{Authority, Random, TestCluster};
use perennial_pki::{Credential, Roots, Usage};
use perennial_rotation::tls::{
    ClientConfigs, ClientVerifier, Source, client_config, mutual_server_config, server_config,
};
use perennial_rotation::{NotYet, RootFiles, Rotator, clock};
use perennial_tests::loopback::{Runtime, issued, new_authority, on_both, start};
use perennial_tests::replacement::write_at_rest;
use perennial_tests::tls::{answer, connect, fingerprint, hex, server, try_answer};
use rustls::ClientConfig;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate for `localhost` from this CA.
fn for_server(authority: &Authority) -> Arc<Credential> {
    let mut random = Random::from_os().unwrap();
    Arc::new(authority.server_credential(&["localhost"], &[], &mut random, clock::now().unix, DAY).unwrap())
}

fn for_client(authority: &Authority) -> Arc<Credential> {
    let mut random = Random::from_os().unwrap();
    Arc::new(authority.client_credential("client", &[], &mut random, clock::now().unix, DAY).unwrap())
}

/// Returns a variable whose credential a test replaces, and a source that reads the credential from the variable.
fn replaceable(first: Arc<Credential>) -> (Arc<Mutex<Arc<Credential>>>, Source) {
    let current = Arc::new(Mutex::new(first));
    let shared = current.clone();
    (current, Source::new(move || Some(shared.lock().unwrap().clone())))
}

/// The CAs of a file that is read again in each handshake.
fn files(path: &Path) -> RootFiles {
    RootFiles::open([path]).unwrap().every(Duration::ZERO)
}

/// The fingerprint of the server's certificate on a new connection.
fn server_of(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<String> {
    let mut stream = connect(address, config.clone());
    try_answer(&mut stream)?;
    Ok(hex(&stream.get_ref().conn.peer_certificates().unwrap()[0]))
}

#[test]
fn both_sides_of_mutual_tls_rotate_without_new_configurations() {
    on_both(|runtime: Runtime| {
        let cluster = TestCluster::start().unwrap();
        let roots = Roots::from_pem(cluster.ca_pem()).unwrap();
        let rotate = |template: Template, usage| {
            let signer = cluster.signer("example.com/mesh", usage);
            start(runtime, Rotator::new().template(template).signer(signer))
        };
        let serving = rotate(Template::new("server").with_dns_names(["localhost"]), Usage::ServerAuth);
        let calling = rotate(Template::new("client"), Usage::ClientAuth);
        let address = server(mutual_server_config(&serving, roots.clone()));
        let config = Arc::new(client_config(&calling, roots));
        for n in 1..=3 {
            let (serving_now, calling_now) = (issued(&serving, n), issued(&calling, n));
            for _ in 0..2 {
                let mut stream = connect(address, config.clone());
                assert_eq!(answer(&mut stream), (fingerprint(&calling_now), false));
                let shown = hex(&stream.get_ref().conn.peer_certificates().unwrap()[0]);
                assert_eq!(shown, fingerprint(&serving_now));
            }
            serving.rotate_now();
            calling.rotate_now();
        }
        serving.shutdown().wait();
        calling.shutdown().wait();
    });
}

#[test]
fn client_follows_rotation_of_cas_with_and_without_overlap() {
    let directory = TempDir::new().unwrap();
    let bundle = directory.path().join("ca.crt");
    let (old, new) = (new_authority(), new_authority());
    let write = |pem: &[&str]| write_at_rest(&bundle, pem.concat());
    write(&[old.certificate_pem()]);
    let (of_old, of_new) = (for_server(&old), for_server(&new));
    let (current, source) = replaceable(of_old.clone());
    let address = server(server_config(source));
    let config = Arc::new(client_config(Source::new(|| None), files(&bundle)));
    let accepts = |credential: &Arc<Credential>| {
        *current.lock().unwrap() = credential.clone();
        match server_of(address, &config) {
            Ok(seen) => {
                assert_eq!(seen, fingerprint(credential));
                true
            }
            Err(error) => {
                assert!(error.to_string().contains("UnknownIssuer"), "{error}");
                false
            }
        }
    };
    assert!(accepts(&of_old) && !accepts(&of_new));

    // With an overlap, no connection fails whichever side is first.
    write(&[old.certificate_pem(), new.certificate_pem()]);
    assert!(accepts(&of_old) && accepts(&of_new));
    write(&[new.certificate_pem()]);
    assert!(accepts(&of_new) && !accepts(&of_old));

    // Without an overlap, connections fail until the server has rotated, too.
    write(&[old.certificate_pem()]);
    assert!(!accepts(&of_new) && accepts(&of_old));

    for damage in [Some(""), Some("no PEM"), Some(&new.certificate_pem()[..200]), None] {
        match damage {
            Some(text) => write_at_rest(&bundle, text),
            None => fs::remove_file(&bundle).unwrap(),
        }
        assert!(accepts(&of_old) && !accepts(&of_new), "{damage:?}");
    }
}

#[test]
fn server_follows_rotation_of_client_cas() {
    let directory = TempDir::new().unwrap();
    let bundle = directory.path().join("client-ca.crt");
    let (serving, old, new) = (new_authority(), new_authority(), new_authority());
    write_at_rest(&bundle, old.certificate_pem());
    let (_, source) = replaceable(for_server(&serving));
    let address = server(mutual_server_config(source, files(&bundle)));
    let (current, source) = replaceable(for_client(&old));
    let config = Arc::new(client_config(source, serving.roots().unwrap()));
    let accepted = |credential: &Arc<Credential>| {
        *current.lock().unwrap() = credential.clone();
        try_answer(&mut connect(address, config.clone())).map(|(seen, _)| assert_eq!(seen, fingerprint(credential)))
    };
    let (of_old, of_new) = (for_client(&old), for_client(&new));
    accepted(&of_old).unwrap();
    let refused = accepted(&of_new).unwrap_err().to_string();
    assert!(refused.contains("UnknownCA"), "{refused}");
    write_at_rest(&bundle, [old.certificate_pem(), new.certificate_pem()].concat());
    accepted(&of_old).unwrap();
    accepted(&of_new).unwrap();
    write_at_rest(&bundle, new.certificate_pem());
    accepted(&of_old).unwrap_err();
    write_at_rest(&bundle, "");
    accepted(&of_old).unwrap_err();
    accepted(&of_new).unwrap();
}

#[test]
fn no_session_is_resumed_after_its_ca_was_removed() {
    let (old, new) = (new_authority(), new_authority());
    let (_, source) = replaceable(for_server(&old));
    let address = server(server_config(source));
    let trusted = Arc::new(Mutex::new(old.roots().unwrap()));
    let roots = trusted.clone();
    let configs = ClientConfigs::new(Source::new(|| None), move || Ok(roots.lock().unwrap().clone()));
    assert!(!answer(&mut connect(address, configs.current())).1);
    assert!(answer(&mut connect(address, configs.current())).1, "with the same CAs, the session is resumed");
    *trusted.lock().unwrap() = new.roots().unwrap();
    let refused = try_answer(&mut connect(address, configs.current())).unwrap_err().to_string();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
}

/// The source of CAs fails just after a new connection was about to be verified with the new CAs.
#[test]
fn cas_once_seen_by_configurations_replace_older_ones_while_source_fails() {
    let (old, new) = (new_authority(), new_authority());
    let (_, source) = replaceable(for_server(&old));
    let address = server(server_config(source));
    let answers = Arc::new(Mutex::new(old.roots().map_err(|_| NotYet::new(""))));
    let roots = answers.clone();
    let configs = ClientConfigs::new(Source::new(|| None), move || roots.lock().unwrap().clone());
    answer(&mut connect(address, configs.current()));
    *answers.lock().unwrap() = Ok(new.roots().unwrap());
    let config = configs.current();
    *answers.lock().unwrap() = Err(NotYet::new("the bundle is being written"));
    let refused = try_answer(&mut connect(address, config)).unwrap_err().to_string();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    try_answer(&mut connect(address, configs.current())).unwrap_err();
}

#[test]
fn failing_source_of_cas_fails_handshakes_only_before_its_first_success() {
    let authority = new_authority();
    let (_, source) = replaceable(for_server(&authority));
    let address = server(server_config(source));
    let answers = Arc::new(Mutex::new(Err(NotYet::new("the bundle is being written"))));
    let roots = answers.clone();
    let config = Arc::new(client_config(Source::new(|| None), move || roots.lock().unwrap().clone()));
    let error = server_of(address, &config).unwrap_err().to_string();
    assert!(error.contains("no CAs to verify the peer with: the bundle is being written"), "{error}");
    *answers.lock().unwrap() = Ok(authority.roots().unwrap());
    server_of(address, &config).unwrap();
    *answers.lock().unwrap() = Err(NotYet::new("the bundle is being written"));
    server_of(address, &config).unwrap();
}

#[test]
fn optional_client_verifier_accepts_missing_but_not_unknown_certificate() {
    let (authority, other) = (new_authority(), new_authority());
    let (_, source) = replaceable(for_server(&authority));
    let mut config = server_config(source.clone());
    config = rustls::ServerConfig::builder_with_provider(config.crypto_provider().clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(Arc::new(ClientVerifier::new(authority.roots().unwrap()).optional()))
        .with_cert_resolver(config.cert_resolver.clone());
    let address = server(config);
    let roots = authority.roots().unwrap();
    let client = |credential: Option<Arc<Credential>>| {
        let config = client_config(Source::new(move || credential.clone()), roots.clone());
        try_answer(&mut connect(address, Arc::new(config)))
    };
    assert_eq!(client(None).unwrap().0, "");
    let known = for_client(&authority);
    assert_eq!(client(Some(known.clone())).unwrap().0, fingerprint(&known));
    client(Some(for_client(&other))).unwrap_err();
}
