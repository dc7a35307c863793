//! The cases of signer_test.go: what the signers of a cluster sign, and for how long.

use perennial::Template;
use perennial_dev::{Approval, Options};
use perennial_kubernetes::objects::CertificateSigningRequest;

use super::{Row, different, same};
use perennial_tests::simulation::{CLIENT, HOUR, KUBELET_CLIENT, KUBELET_SERVING, START, Server, admin, csr};

const SOURCE: &str = "signer_test.go";
const CLIENT_USAGES: &[&str] = &["client auth", "digital signature", "key encipherment"];
const SERVER_USAGES: &[&str] = &["server auth", "digital signature", "key encipherment"];
const LEGACY: &str = "kubernetes.io/legacy-unknown";
const NO_LEGACY: &str = "certificates.k8s.io/v1 has no such requests, and v1beta1 is gone";
const NOBODY_SIGNS: &str = "approved, and never signed";

pub(crate) const ROWS: &[Row] = &[
    different(
        SOURCE,
        "TestSigner",
        "a request for legacy-unknown is refused; for other signers, a longer lifetime is shortened to the signer's",
        NO_LEGACY,
        || {
            assert_eq!(manual().create(&admin(), &csr("a", LEGACY, CLIENT_USAGES, &node())), 422);
            assert_eq!(lifetime(Some(3 * 3600)), 3600);
        },
    ),
    same(SOURCE, "TestHandle/should sign if signerName is kubernetes.io/kube-apiserver-client", "signed", || {
        assert!(signs(&csr(
            "a",
            CLIENT,
            CLIENT_USAGES,
            &Template::new("hello-world").with_organizations(["some-org"])
        )));
    }),
    same(
        SOURCE,
        "TestHandle/should refuse to sign if signerName is kubernetes.io/kube-apiserver-client and contains an unexpected usage",
        "condition Failed, and no certificate",
        || {
            let usages = ["server auth", "client auth", "digital signature", "key encipherment"];
            let object = csr("a", CLIENT, &usages, &Template::new("hello-world").with_organizations(["some-org"]));
            let mut server = approved(&object);
            assert!(server.chain("a").is_none() && has(&mut server, "Failed"));
        },
    ),
    same(
        SOURCE,
        "TestHandle/should sign if signerName is kubernetes.io/kube-apiserver-client-kubelet",
        "signed",
        || {
            assert!(signs(&csr("a", KUBELET_CLIENT, CLIENT_USAGES, &node())));
        },
    ),
    different(
        SOURCE,
        "TestHandle/should sign if signerName is kubernetes.io/legacy-unknown",
        "refused when it is created",
        NO_LEGACY,
        || assert_eq!(manual().create(&admin(), &csr("a", LEGACY, &["any"], &node())), 422),
    ),
    same(SOURCE, "TestHandle/should sign if signerName is kubernetes.io/kubelet-serving", "signed", || {
        assert!(signs(&csr("a", KUBELET_SERVING, SERVER_USAGES, &node().with_dns_names(["example.com"]))));
    }),
    same(SOURCE, "TestHandle/should do nothing if failed", "not signed although approved", || {
        let mut server = manual();
        let object = csr("a", KUBELET_SERVING, SERVER_USAGES, &node().with_dns_names(["example.com"]));
        assert_eq!(server.create(&admin(), &object), 201);
        assert_eq!(server.add_condition("a", "Failed", "status"), 200);
        assert_eq!(server.approve("a"), 200);
        assert!(server.chain("a").is_none() && has(&mut server, "Approved"));
    }),
    same(SOURCE, "TestHandle/should do nothing if an unrecognised signerName is used", NOBODY_SIGNS, || {
        left_alone("kubernetes.io/not-recognised");
    }),
    same(SOURCE, "TestHandle/should do nothing if not approved", "not signed", || {
        let mut server = manual();
        let object = csr("a", KUBELET_SERVING, SERVER_USAGES, &node().with_dns_names(["example.com"]));
        assert_eq!(server.create(&admin(), &object), 201);
        server.pass(HOUR);
        assert!(server.chain("a").is_none() && server.object("a").is_some());
    }),
    same(SOURCE, "TestHandle/should do nothing if signerName does not start with kubernetes.io", NOBODY_SIGNS, || {
        left_alone("example.com/sample-name");
    }),
    same(
        SOURCE,
        "TestHandle/should do nothing if signerName starts with kubernetes.io but is unrecognised",
        NOBODY_SIGNS,
        || left_alone("kubernetes.io/not-a-real-signer"),
    ),
    same(SOURCE, "Test_signer_duration/can request shorter duration than TTL", "30 min", || {
        assert_eq!(lifetime(Some(1800)), 1800);
    }),
    same(SOURCE, "Test_signer_duration/cannot request longer duration than TTL", "1 h", || {
        assert_eq!(lifetime(Some(3 * 3600)), 3600);
    }),
    different(
        SOURCE,
        "Test_signer_duration/cannot request negative duration",
        "refused when it is created",
        "a cluster's API refuses less than ten minutes, so that its signer never applies its minimum",
        || assert_eq!(created_for(-60), 422),
    ),
    different(
        SOURCE,
        "Test_signer_duration/cannot request duration less than 10 mins",
        "refused when it is created",
        "a cluster's API refuses less than ten minutes, so that its signer never applies its minimum",
        || assert_eq!(created_for(599), 422),
    ),
    same(SOURCE, "Test_signer_duration/can request duration of exactly 10 mins", "10 min", || {
        assert_eq!(lifetime(Some(600)), 600);
    }),
    same(SOURCE, "Test_signer_duration/can request duration equal to the default", "1 h", || {
        assert_eq!(lifetime(Some(3600)), 3600);
    }),
    same(SOURCE, "Test_signer_duration/can choose not to request a duration to get the default", "1 h", || {
        assert_eq!(lifetime(None), 3600);
    }),
];

fn node() -> Template {
    Template::node("testnode")
}

/// A cluster in which an administrator approves each request by hand. Issued certificates are valid for ten minutes to
/// an hour.
fn manual() -> Server {
    let options =
        Options { approval: Approval::Manual, signing_duration: HOUR, allow_short: false, ..Options::default() };
    Server::new(options)
}

fn approved(object: &CertificateSigningRequest) -> Server {
    let mut server = manual();
    assert_eq!(server.create(&admin(), object), 201);
    assert!(server.chain("a").is_none(), "not before it is approved");
    assert_eq!(server.approve("a"), 200);
    server
}

fn has(server: &mut Server, kind: &str) -> bool {
    server.object("a").unwrap().status.conditions.iter().any(|condition| condition.type_ == kind)
}

fn signs(object: &CertificateSigningRequest) -> bool {
    approved(object).chain("a").is_some()
}

fn left_alone(signer: &str) {
    let mut server = approved(&csr("a", signer, CLIENT_USAGES, &node()));
    server.pass(HOUR / 2);
    assert!(server.chain("a").is_none() && !has(&mut server, "Failed"));
}

fn asking_for(seconds: Option<i32>) -> CertificateSigningRequest {
    let mut object = csr("a", KUBELET_CLIENT, CLIENT_USAGES, &node());
    object.spec.expiration_seconds = seconds;
    object
}

fn created_for(seconds: i32) -> u16 {
    manual().create(&admin(), &asking_for(Some(seconds)))
}

/// Creates and approves a request object whose `expirationSeconds` is `asked`. Returns the seconds from now to notAfter
/// of the issued certificate.
fn lifetime(asked: Option<i32>) -> i64 {
    let chain = approved(&asking_for(asked)).chain("a").unwrap();
    chain.certificate().validity.not_after().as_secs() - START.as_secs()
}
