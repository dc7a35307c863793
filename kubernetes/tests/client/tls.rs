//! The certificates by which client and server authenticate over TLS, and the errors if one of them refuses the other.

use std::sync::Arc;
use std::time::Duration;

use super::errors::mentions;
use crate::support::*;
use perennial::Failure;
use perennial_kubernetes::client::{Call, ExchangeError, Issuance, Limits, Request, client_go_healthy};
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::Roots;
use perennial_rotation::{Identity, Token};

#[test]
fn tls_refusal_marks_credential_as_refused_only_with_client_certificate() {
    let mut scene = Scene::new();
    let (others, known) = (Ca::new("another CA"), Ca::new("the known CA"));
    let demanding = server_config(&scene.ca, Some(&known), "api.example");
    let refused = |scene: &Scene| {
        let mut world = scene.world(|_| panic!("no request may arrive"));
        world.config = Arc::clone(&demanding);
        world.run(&mut scene.issuance()).unwrap_err()
    };

    scene.identity = Identity::Certificate(others.credential());
    let error = refused(&scene);
    assert_eq!((error.failure, error.credential_refused), (Failure::Unauthorized, true));
    mentions(&error, &["TLS alert", "refused the client certificate"]);

    scene.identity = Identity::Token(Token::new("abcdef.0123456789abcdef").unwrap());
    let error = refused(&scene);
    assert_eq!((error.failure, error.credential_refused), (Failure::Unauthorized, false));
    mentions(&error, &["certificate_required", "requires a client certificate", "presented a bearer token"]);

    scene.identity = Identity::Certificate(known.credential());
    let mut world = scene.world(scene.well());
    world.config = demanding;
    world.run(&mut scene.issuance()).unwrap();
}

/// From the field, a user with a certificate and a token: <https://github.com/hjacobs/pykube/pull/44>
#[test]
fn client_sends_both_certificate_and_token() {
    let mut scene = Scene::new();
    let known = Ca::new("the known CA");
    let token = Token::new("abcdef.0123456789abcdef").unwrap();
    scene.identity = Identity::CertificateAndToken(known.credential(), token.clone());
    // This server refuses clients without a certificate.
    let demanding = server_config(&scene.ca, Some(&known), "api.example");
    let mut world = scene.world(scene.well());
    world.config = Arc::clone(&demanding);
    world.run(&mut scene.issuance()).unwrap();
    assert!(
        world.requests.iter().all(|request| request.head.contains("authorization: Bearer abcdef.0123456789abcdef\r\n"))
    );

    let error = scene.error(|_| Reply::status(401, "Unauthorized", "who?"));
    assert!(error.credential_refused);
    mentions(&error, &["a client certificate and a bearer token"]);
    scene.identity = Identity::CertificateAndToken(Ca::new("another CA").credential(), token);
    let mut world = scene.world(|_| panic!("no request may arrive"));
    world.config = demanding;
    assert!(world.run(&mut scene.issuance()).unwrap_err().credential_refused);
}

#[test]
fn tls_alert_is_reported_in_place_of_write_error() {
    let mut scene = Scene::new();
    scene.identity = Identity::Certificate(Ca::new("another CA").credential());
    let mut world = scene.world(|_| panic!("no request may arrive"));
    world.config = server_config(&scene.ca, Some(&scene.ca), "api.example");
    world.broken_transmit = 2;
    assert!(world.run(&mut scene.issuance()).unwrap_err().credential_refused);
}

#[test]
fn write_error_is_reported_if_no_tls_alert_follows() {
    let scene = Scene::new();
    let call = || Call::new(Request::get("/version"), scene.cluster(), Identity::Anonymous, Limits::default());
    for end in [End::Keep, End::Cut] {
        let mut world = scene.world(|_| Reply::silence().then(end));
        world.broken_transmit = 2;
        assert_eq!(world.run(&mut call()).unwrap_err(), ExchangeError::Broken("broken pipe".to_owned()));
        assert!(world.elapsed() <= Duration::from_secs(1));
    }
}

#[test]
fn client_authenticates_over_tls_1_2() {
    let mut scene = Scene::new();
    let known = Ca::new("the known CA");
    let config = server_config_for(&[&rustls::version::TLS12], &scene.ca, Some(&known), "api.example");
    scene.identity = Identity::Certificate(known.credential());
    let mut world = scene.world(scene.well());
    world.config = Arc::clone(&config);
    world.run(&mut scene.issuance()).unwrap();

    scene.identity = Identity::Certificate(Ca::new("another CA").credential());
    let mut world = scene.world(|_| panic!("no request may arrive"));
    world.config = config;
    assert!(world.run(&mut scene.issuance()).unwrap_err().credential_refused);
}

#[test]
fn unknown_issuer_error_names_configured_ca() {
    let scene = Scene::new();
    let other = Ca::new("the wrong CA");
    let mut world = scene.world(|_| panic!("nothing may be sent"));
    world.config = server_config(&other, None, "api.example");
    let error = world.run(&mut scene.issuance()).unwrap_err();
    assert_eq!(error.failure, Failure::Unreachable);
    mentions(&error, &["not trusted", "certificate-authority", "CN=the test CA", "https://api.example:6443"]);
}

/// The key of a server, and the parameters of its certificate. The client's CA bundle may contain this certificate
/// itself in the place of a CA.
struct OwnCertificate {
    params: rcgen::CertificateParams,
    key: rcgen::KeyPair,
}

impl OwnCertificate {
    fn new(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Self {
        let mut params = rcgen::CertificateParams::new(["api.example".to_owned()]).unwrap();
        let at = |seconds| time::OffsetDateTime::from_unix_timestamp(EPOCH + seconds).unwrap();
        (params.not_before, params.not_after) = (at(-60), at(86_400));
        change(&mut params);
        Self { params, key: rcgen::KeyPair::generate().unwrap() }
    }

    /// Makes an HTTP request over TLS 1.3, then one over TLS 1.2. The server's certificate is signed by `issuer`, or
    /// self-signed if `issuer` is `None`. The client's CA bundle is `trusted`, or the server's certificate if `trusted`
    /// is `None`. Returns the first error.
    fn outcome(&self, scene: &Scene, issuer: Option<&Self>, trusted: Option<&str>) -> Result<(), String> {
        let pem = match issuer {
            Some(issuer) => {
                let issuer = rcgen::Issuer::from_params(&issuer.params, &issuer.key);
                self.params.signed_by(&self.key, &issuer).unwrap().pem()
            }
            None => self.params.self_signed(&self.key).unwrap().pem(),
        };
        let roots = Roots::from_pem(trusted.unwrap_or(&pem).as_bytes()).unwrap();
        for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
            let mut world = scene.world(|_| Reply::json(200, b"{}".to_vec()));
            world.config = server_config_with(versions, None, &pem, &self.key);
            let cluster = Cluster::from_url("https://api.example:6443").unwrap().with_roots(roots.clone());
            let mut call =
                Call::new(Request::get("/version"), Arc::new(cluster), Identity::Anonymous, Limits::default());
            world.run(&mut call).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// From the field, a server's own certificate in the place of its CA: <https://github.com/kube-rs/kube/issues/1767>,
/// <https://github.com/kube-rs/kube/issues/110>, <https://github.com/kube-rs/kube/issues/1562>
#[test]
fn server_certificate_in_ca_bundle_is_trusted() {
    use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa};
    let scene = Scene::new();
    let is_ca = |params: &mut rcgen::CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let works = |own: OwnCertificate, issuer: Option<&OwnCertificate>| own.outcome(&scene, issuer, None);
    assert_eq!(works(OwnCertificate::new(is_ca), None), Ok(()), "CA:TRUE");
    assert_eq!(works(OwnCertificate::new(|_| {}), None), Ok(()), "no basic constraints");
    assert_eq!(works(OwnCertificate::new(|params| params.is_ca = IsCa::ExplicitNoCa), None), Ok(()), "CA:FALSE");
    assert_eq!(works(OwnCertificate::new(|_| {}), Some(&OwnCertificate::new(is_ca))), Ok(()), "a leaf");
    let serves = |params: &mut rcgen::CertificateParams| {
        is_ca(params);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    assert_eq!(works(OwnCertificate::new(serves), None), Ok(()), "server auth");

    let past = time::OffsetDateTime::from_unix_timestamp(EPOCH - 1).unwrap();
    let future = time::OffsetDateTime::from_unix_timestamp(EPOCH + 60).unwrap();
    for own in [
        OwnCertificate::new(|params| {
            is_ca(params);
            params.not_after = past;
        }),
        OwnCertificate::new(|params| {
            is_ca(params);
            params.not_before = future;
        }),
        OwnCertificate::new(|params| {
            is_ca(params);
            params.subject_alt_names = vec![rcgen::SanType::DnsName("other.example".try_into().unwrap())];
        }),
        OwnCertificate::new(|params| {
            is_ca(params);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }),
    ] {
        let why = own.outcome(&scene, None, None).unwrap_err();
        assert!(why.starts_with("the server's certificate is not trusted: "), "{why}");
    }
    // A certificate of the same name with another key is not trusted.
    let trusted = OwnCertificate::new(is_ca);
    let trusted = trusted.params.self_signed(&trusted.key).unwrap().pem();
    let why = OwnCertificate::new(is_ca).outcome(&scene, None, Some(&trusted)).unwrap_err();
    assert!(why.contains("not trusted"), "{why}");
}

fn issuance_at(scene: &Scene, cluster: Cluster) -> Issuance {
    Issuance::new(scene.desired_csr.clone(), Arc::new(cluster), scene.identity.clone(), Limits::default(), 7)
}

#[test]
fn server_certificate_of_other_name_needs_tls_server_name() {
    let scene = Scene::new();
    let cluster = || Cluster::from_url("https://10.0.0.1").unwrap().with_roots(scene.ca.roots());
    let mut world = scene.world(scene.well());
    let error = world.run(&mut issuance_at(&scene, cluster())).unwrap_err();
    assert_eq!(error.failure, Failure::Unreachable);
    mentions(&error, &["10.0.0.1", "api.example"]);

    let cluster = cluster().with_tls_server_name("api.example").unwrap();
    world.run(&mut issuance_at(&scene, cluster)).unwrap();
}

#[test]
fn cluster_without_ca_fails_before_connecting_unless_insecure() {
    let scene = Scene::new();
    let cluster = || Cluster::from_url("https://api.example").unwrap();
    let mut world = scene.world(scene.well());
    let error = world.run(&mut issuance_at(&scene, cluster())).unwrap_err();
    assert_eq!((error.failure, error.health.map(client_go_healthy)), (Failure::Local, None));
    mentions(&error, &["certificate-authority"]);
    assert!(world.steps.is_empty());

    world.run(&mut issuance_at(&scene, cluster().with_insecure_skip_tls_verify())).unwrap();
}

#[test]
fn plain_http_server_is_reported_as_not_speaking_tls() {
    let scene = Scene::new();
    let mut world = scene.world(|_| panic!("not TLS"));
    world.not_tls = Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    let error = world.run(&mut scene.issuance()).unwrap_err();
    assert_eq!(error.failure, Failure::Unreachable);
    mentions(&error, &["does not speak TLS"]);
}
