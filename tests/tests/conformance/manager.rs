//! The cases of certificate_manager_test.go that need a server.

use std::sync::Arc;
use std::time::Instant;

use perennial::{Failure, Reason, Template};
use perennial_dev::{Api, Approval, Options};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::client::client_go_healthy;
use perennial_pki::{KeyAlgorithm, KeyError, KeyPair, read_request};
use perennial_rotation::{Authentication, SignError};
use perennial_smol::Rotator;
use smol::future;

use super::{Row, different, same};
use perennial_tests::loopback::{self, BOUND, Runtime};
use perennial_tests::simulation::{
    COLLECTION, DAY, HOUR, KUBELET_CLIENT, MINUTE, Node, SECOND, Server, desired_csr, key,
};

const SOURCE: &str = "certificate_manager_test.go";
const POST: &str = "match: { method: POST }";
const NAMES_A_SIGNER: &str = "a request without a signerName has been impossible since Kubernetes 1.22";

const fn health(name: &'static str, does: &'static str, check: fn()) -> Row {
    same(SOURCE, name, does, check)
}

pub(crate) const ROWS: &[Row] = &[
    same(
        SOURCE,
        "TestRotateCertCreateCSRError",
        "the attempt fails and is retried; the current certificate stays",
        || {
            fails_and_recovers(&format!("{{ {POST}, fault: {{ answer: {{ status: 500 }} }} }}"));
        },
    ),
    same(
        SOURCE,
        "TestRotateCertWaitingForResultError",
        "the attempt fails once reading has failed too often, and is retried; the current certificate stays",
        || {
            fails_and_recovers("{ match: { method: GET }, fault: { answer: { status: 500 } } }");
        },
    ),
    same(
        SOURCE,
        "TestNewManagerNoBootstrap",
        "what is stored goes before what bootstraps; it is not due",
        current_is_kept,
    ),
    same(
        SOURCE,
        "TestGetCurrentCertificateOrBootstrap/return cert from store",
        "it is served, and not due",
        current_is_kept,
    ),
    same(
        SOURCE,
        "TestGetCurrentCertificateOrBootstrap/no cert in store and no bootstrap cert",
        "no certificate is served, and one is due",
        || {
            let node = Node::new(Server::new(Options::default()), None);
            assert_eq!(node.presents(), None);
            assert_eq!(node.rotation.snapshot(node.server.now()).due, Some(Reason::NoCertificate));
        },
    ),
    same(
        SOURCE,
        "TestInitializeCertificateSigningRequestClient/No current certificate, no bootstrap certificate",
        "no certificate, then the one that the API issues",
        from_nothing,
    ),
    different(
        SOURCE,
        "TestInitializeCertificateSigningRequestClient/No current certificate, no bootstrap certificate, no v1 API",
        "404 is a rejection; v1beta1 is never requested",
        "v1beta1 has not been served since Kubernetes 1.22",
        || {
            let mut node = Node::new(Server::new(Options::default()), None);
            node.server.faults(&format!("{{ {POST}, fault: {{ answer: {{ status: 404 }} }} }}"));
            node.run(MINUTE);
            assert_eq!(node.rotation.machine().last_failure(), Some(Failure::Rejected));
            assert_eq!(node.server.journal(), [format!("POST {COLLECTION}")]);
        },
    ),
    same(
        SOURCE,
        "TestInitializeCertificateSigningRequestClient/No current certificate, no bootstrap certificate, no v1beta1 API",
        "the request uses v1",
        || {
            from_nothing();
            let mut node = Node::new(Server::new(Options::default()), None);
            node.run(MINUTE);
            assert!(node.server.journal().iter().all(|line| line.contains("/v1/")));
        },
    ),
    same(
        SOURCE,
        "TestInitializeCertificateSigningRequestClient/No current certificate, bootstrap certificate",
        "the request uses the bootstrap credential, and the issued certificate replaces it",
        bootstrapped,
    ),
    same(
        SOURCE,
        "TestInitializeCertificateSigningRequestClient/Current certificate, no bootstrap certificate",
        "the stored one, before and after",
        current_is_kept,
    ),
    same(
        SOURCE,
        "TestInitializeCertificateSigningRequestClient/Current certificate, bootstrap certificate",
        "the stored one, before and after",
        current_is_kept,
    ),
    same(
        SOURCE,
        "TestInitializeCertificateSigningRequestClient/Current certificate expired, no bootstrap certificate",
        "no certificate, then the one that the API issues",
        || {
            let mut server = Server::new(Options::default());
            let expired = server.node_credential(25 * HOUR, DAY);
            let mut node = Node::new(server, Some(expired));
            assert_eq!(node.presents(), None);
            node.run(MINUTE);
            assert!(node.presents().is_some());
        },
    ),
    different(
        SOURCE,
        "TestInitializeOtherRESTClients/No current certificate, no bootstrap certificate",
        "as for kubelet's signer, with the other signer's name",
        NAMES_A_SIGNER,
        || signer_is_named(from_nothing),
    ),
    different(
        SOURCE,
        "TestInitializeOtherRESTClients/No current certificate, bootstrap certificate",
        "as for kubelet's signer, with the other signer's name",
        NAMES_A_SIGNER,
        || signer_is_named(bootstrapped),
    ),
    different(
        SOURCE,
        "TestInitializeOtherRESTClients/Current certificate, no bootstrap certificate",
        "as for kubelet's signer, with the other signer's name",
        NAMES_A_SIGNER,
        || signer_is_named(current_is_kept),
    ),
    different(
        SOURCE,
        "TestInitializeOtherRESTClients/Current certificate, bootstrap certificate",
        "as for kubelet's signer, with the other signer's name",
        NAMES_A_SIGNER,
        || signer_is_named(current_is_kept),
    ),
    health("TestServerHealth/Current certificate, bootstrap certificate", "issued, and healthy", || {
        let mut server = Server::new(Options::default());
        let stored = server.node_credential(22 * HOUR, DAY);
        let mut node = Node::with(server, Some(Arc::clone(&stored)), own);
        node.run(30 * MINUTE);
        assert_ne!(node.presents().as_deref(), Some(stored.chain().serial()));
        assert_eq!(node.healthy, Some(true));
    }),
    health("TestServerHealth/Generic error on create", "not healthy; what is held is kept", || {
        assert_eq!(error("connection: refused").health.map(client_go_healthy), Some(false));
        fails_and_recovers("{ fault: { connection: refused } }");
    }),
    health("TestServerHealth/Unauthorized error on create", "healthy", || {
        assert_eq!(error("answer: { status: 401 }").health.map(client_go_healthy), Some(true));
    }),
    health("TestServerHealth/Generic unauthorized error on create", "healthy", || {
        assert_eq!(error("answer: { status: 401, body: html }").health.map(client_go_healthy), Some(true));
    }),
    health("TestServerHealth/Generic not found error on create", "not healthy: something else answers", || {
        assert_eq!(error("answer: { status: 404, body: html }").health.map(client_go_healthy), Some(false));
    }),
    health("TestServerHealth/Not found error on create", "healthy", || {
        assert_eq!(error("answer: { status: 404 }").health.map(client_go_healthy), Some(true));
    }),
    same(SOURCE, "TestStop", "a certificate is issued within seconds; after a stop nothing happens", || {
        let server = loopback::serve(Approval::Auto);
        let mut node = loopback::node(Runtime::Std, &server.cluster);
        let template = node.template.take();
        let handle = node.start();
        assert!(handle.credential().is_none());
        handle.set_template(template).unwrap();
        loopback::issued(&handle, 1);
        handle.shutdown().wait();
        let stopped = Instant::now();
        handle.rotate_now();
        assert!(handle.wait_for(|now| now.issued > 1).within(BOUND).is_none());
        assert!(Some(stopped.elapsed()) < BOUND, "it has ended, so there is nothing to wait for");
        assert_eq!(server.csr_names().len(), 1);
    }),
    different(
        SOURCE,
        "TestContext",
        "dropping the future of a rotation cancels it; a stop afterwards is allowed",
        "a future has no context",
        || {
            let server = loopback::serve(Approval::Auto);
            let signer = loopback::node(Runtime::Smol, &server.cluster).signer.unwrap();
            let rotator = Rotator::new().policy(loopback::policy()).template(Template::node("worker-1")).signer(signer);
            let (handle, rotation) = perennial_smol::start(rotator).unwrap();
            smol::block_on(future::or(rotation, async { drop(handle.wait_for(|now| now.issued == 1).await) }));
            assert!(handle.credential().is_some());
            smol::block_on(handle.shutdown());
            handle.rotate_now();
            assert!(smol::block_on(handle.wait_for(|now| now.issued > 1)).is_none(), "it has ended");
        },
    ),
    same(SOURCE, "TestGenerateKeyConfig/nil returns default EC key", "ECDSA P-256", || {
        check_key_algorithm(None, KeyAlgorithm::EcdsaP256)
    }),
    same(SOURCE, "TestGenerateKeyConfig/returns custom EC key", "a key of the configured kind", || {
        check_key_algorithm(Some(KeyAlgorithm::EcdsaP384), KeyAlgorithm::EcdsaP384);
    }),
    different(
        SOURCE,
        "TestGenerateKeyConfig/returns custom RSA key",
        "RSA keys are generated with the feature `aws-lc-rs`; without it that is an error, but RSA keys can be imported",
        "the default crypto library generates no RSA keys, and clusters accept ECDSA; Ed25519 is supported, too",
        || {
            if KeyAlgorithm::Rsa.can_be_generated() {
                check_key_algorithm(Some(KeyAlgorithm::Rsa), KeyAlgorithm::Rsa);
            } else {
                assert!(matches!(KeyPair::generate(KeyAlgorithm::Rsa), Err(KeyError::NotGenerated { .. })));
            }
            check_key_algorithm(Some(KeyAlgorithm::Ed25519), KeyAlgorithm::Ed25519);
        },
    ),
    same(SOURCE, "TestGenerateKeyConfig/simulate parsing error", "the attempt fails with the reason", || {
        if KeyAlgorithm::Rsa.can_be_generated() {
            // With RSA keys, only the system's randomness could fail.
            return check_key_algorithm(Some(KeyAlgorithm::Rsa), KeyAlgorithm::Rsa);
        }
        let mut node = Node::with(Server::new(Options::default()), None, |signer| {
            signer.profile.key_algorithm = KeyAlgorithm::Rsa
        });
        node.run(SECOND / 10);
        assert_eq!(node.rotation.machine().last_failure(), Some(Failure::Local));
        let last_error = node.rotation.snapshot(node.server.now()).last_error.unwrap();
        assert_eq!(*last_error, *KeyPair::generate(KeyAlgorithm::Rsa).unwrap_err().to_string());
        assert!(node.server.journal().is_empty());
    }),
    same(SOURCE, "TestValidateKeyStrength/RSA 1024", "refused", || {
        let pem = include_str!("../../../pki/tests/data/rsa1024.pkcs1.pem");
        assert_eq!(KeyPair::from_pem(pem).err(), Some(KeyError::RsaSize { bits: 1024 }));
    }),
    same(SOURCE, "TestValidateKeyStrength/ECDSA P-224", "refused", || {
        let refused = KeyError::Curve { curve: "P-224".into() };
        assert_eq!(KeyPair::from_pem(include_str!("data/p224.sec1.pem")).err(), Some(refused));
    }),
    same(SOURCE, "TestValidateKeyStrength/RSA 2048", "accepted", || {
        let pem = include_str!("../../../pki/tests/data/rsa2048.pkcs1.pem");
        assert_eq!(KeyPair::from_pem(pem).unwrap().algorithm(), KeyAlgorithm::Rsa);
    }),
    same(SOURCE, "TestValidateKeyStrength/ECDSA P-256", "accepted", || {
        let pem = include_str!("../../../pki/tests/data/p256.sec1.pem");
        assert_eq!(KeyPair::from_pem(pem).unwrap().algorithm(), KeyAlgorithm::EcdsaP256);
    }),
];

fn from_nothing() {
    let mut node = Node::new(Server::new(Options::default()), None);
    assert_eq!(node.presents(), None);
    node.run(MINUTE);
    assert!(node.presents().is_some() && node.written == 1);
}

/// Checks that a node without a certificate authenticates its request with the bootstrap token.
fn bootstrapped() {
    let server = Server::new(Options::default());
    let mut node = Node::with(server, None, own);
    node.run(MINUTE);
    let object = node.server.api.requests().next().unwrap();
    assert_eq!(object.spec.username, "system:bootstrap:abcdef");
    assert!(node.presents().is_some());
}

fn current_is_kept() {
    for adjust in [|_: &mut _| {}, own] {
        let mut server = Server::new(Options::default());
        let stored = server.node_credential(12 * HOUR, 2 * DAY);
        let mut node = Node::with(server, Some(Arc::clone(&stored)), adjust);
        for _ in 0..2 {
            assert_eq!(node.presents().as_deref(), Some(stored.chain().serial()));
            node.run(MINUTE);
        }
        assert!(node.server.journal().is_empty());
    }
}

/// Makes the signer's requests authenticate with the bootstrap token until the node has its own certificate, then with
/// that certificate.
fn own(signer: &mut CsrSigner) {
    if let Authentication::Other(token) = &signer.authentication {
        signer.authentication = Authentication::Own { bootstrap: Some(Arc::clone(token)) };
    }
}

fn signer_is_named(case: fn()) {
    case();
    let mut server = Server::new(Options::default());
    let unnamed = server.submit(&desired_csr(&key(), ""), MINUTE, |_| {}).unwrap().unwrap_err();
    assert_eq!(unnamed.failure, Failure::Rejected);
    let named = |api: &Api| api.requests().all(|object| object.spec.signer_name == KUBELET_CLIENT);
    let mut node = Node::new(server, None);
    node.run(MINUTE);
    assert!(node.submissions == 1 && named(&node.server.api));
}

/// Checks that under these faults a rotation fails and the node goes on to present the old certificate, and that a
/// rotation succeeds once the faults are gone.
fn fails_and_recovers(rules: &str) {
    let mut server = Server::new(Options::default());
    let stored = server.node_credential(22 * HOUR, DAY);
    let mut node = Node::new(server, Some(Arc::clone(&stored)));
    node.server.faults(rules);
    node.run(30 * MINUTE);
    assert!(node.rotation.machine().last_failure().is_some());
    assert_eq!(node.presents().as_deref(), Some(stored.chain().serial()));
    node.server.faults("");
    node.run(30 * MINUTE);
    assert_ne!(node.presents().as_deref(), Some(stored.chain().serial()));
}

/// The error of a submission under this fault. A fault of the kind `connection` applies to the connection, any other
/// fault to the POST.
pub(crate) fn error(fault: &str) -> SignError {
    let mut server = Server::new(Options { approval: Approval::Manual, ..Options::default() });
    let about = if fault.starts_with("connection") { "" } else { "match: { method: POST }, " };
    server.faults(&format!("{{ {about}fault: {{ {fault} }} }}"));
    server.submit(&desired_csr(&key(), KUBELET_CLIENT), HOUR, |_| {}).unwrap().unwrap_err()
}

/// Configures the signer with the key algorithm `configured`; `None`: leaves the signer's default. Checks that the key
/// of the request is one of the algorithm `expected`.
///
/// A problem of Kubernetes: the key algorithm cannot be configured.
/// <https://github.com/kubernetes/kubernetes/issues/138987>, <https://github.com/kubernetes/kubernetes/issues/141838>
fn check_key_algorithm(configured: Option<KeyAlgorithm>, expected: KeyAlgorithm) {
    let adjust = |signer: &mut CsrSigner| {
        signer.profile.key_algorithm = configured.unwrap_or(signer.profile.key_algorithm);
    };
    let mut node = Node::with(Server::new(Options::default()), None, adjust);
    node.run(MINUTE);
    let object = node.server.api.requests().next().unwrap();
    assert_eq!(read_request(&object.spec.request).unwrap().key_algorithm, expected);
    assert!(node.presents().is_some());
}
