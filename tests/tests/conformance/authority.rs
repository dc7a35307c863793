//! The cases of authority_test.go: the validity of issued certificates.

use std::time::Duration;

use perennial::Template;
use perennial_dev::{Approval, Options};
use perennial_kubernetes::objects::CertificateSigningRequest;
use perennial_pki::{BadCertificate, Expected, Usage};

use super::{Row, different, same};
use perennial_tests::simulation::{CLIENT, DAY, HOUR, MINUTE, SECOND, START, Server, admin, csr, csr_of};

const SOURCE: &str = "authority_test.go";
const ZERO: Duration = Duration::ZERO;
const BACKDATE: Duration = Duration::from_secs(300);
const ALWAYS_SHORT: &str =
    "the controller manager always signs with Short: 8h; without it a short certificate is born half over";

pub(crate) const ROWS: &[Row] = &[
    same(SOURCE, "TestCertificateAuthority/ca info", "the authority is the issuer; an hour from now", || {
        let server = signed(HOUR, ZERO, &client());
        let chain = server.chain("a").unwrap();
        let authority = perennial_pki::Chain::from_pem(server.api.authority().certificate_pem().as_bytes()).unwrap();
        assert_eq!((chain.issuer(), validity(&server)), (authority.issuer(), (0, 3600)));
    }),
    different(
        SOURCE,
        "TestCertificateAuthority/key usage",
        "a usage that the signer does not allow is a failure: none of the three signers allows `signing`",
        "a cluster's signers check the usages before they apply the permissive policy",
        || {
            let server = signed(HOUR, ZERO, &csr("a", CLIENT, &["client auth", "signing"], &Template::new("a")));
            assert!(server.chain("a").is_none());
            assert!(server.object("a").unwrap().status.conditions.iter().any(|c| c.type_ == "Failed"));
        },
    ),
    same(SOURCE, "TestCertificateAuthority/ext key usage", "a client certificate, not a serving certificate", || {
        let chain = signed(HOUR, ZERO, &client()).chain("a").unwrap();
        let check = |usage| {
            let expected =
                Expected { public_key_der: chain.public_key_der(), usages: &[usage], skew: SECOND, roots: None };
            expected.check(&chain, START)
        };
        assert_eq!(check(Usage::ClientAuth), Ok(()));
        assert_eq!(check(Usage::ServerAuth), Err(BadCertificate::WrongUsage { wanted: Usage::ServerAuth }));
    }),
    different(
        SOURCE,
        "TestCertificateAuthority/backdate without short",
        "from 5 min ago, for 1 h from now",
        ALWAYS_SHORT,
        || assert_eq!(issued(HOUR, BACKDATE), (-300, 3600)),
    ),
    different(
        SOURCE,
        "TestCertificateAuthority/backdate without short and super small ttl",
        "from 5 min ago, for 1 min from now",
        ALWAYS_SHORT,
        || assert_eq!(issued(MINUTE, BACKDATE), (-300, 60)),
    ),
    same(SOURCE, "TestCertificateAuthority/backdate with short", "from 5 min ago, for 1 h from now", || {
        assert_eq!(issued(HOUR, BACKDATE), (-300, 3600));
    }),
    same(
        SOURCE,
        "TestCertificateAuthority/backdate with short and super small ttl",
        "from 5 min ago, for 1 min from now",
        || assert_eq!(issued(MINUTE, BACKDATE), (-300, 60)),
    ),
    same(
        SOURCE,
        "TestCertificateAuthority/backdate with short but longer ttl",
        "from 5 min ago, for 24 h from then",
        || assert_eq!(issued(DAY, BACKDATE), (-300, 86_400 - 300)),
    ),
    same(SOURCE, "TestCertificateAuthority/truncate expiration", "valid no longer than the authority", || {
        assert_eq!(issued(2 * DAY, ZERO), (0, 86_400));
    }),
    same(SOURCE, "TestCertificateAuthority/uri sans", "URIs are copied", || {
        let pem = include_str!("../../../devserver/tests/server/support/every-kind-of-name.csr.pem");
        let asked = perennial_pki::read_request(pem.as_bytes()).unwrap();
        let server = signed(HOUR, ZERO, &csr_of("a", CLIENT, &["client auth"], pem));
        let chain = server.chain("a").unwrap();
        let [uri] = &asked.names.uris[..] else { panic!("{:?}", asked.names.uris) };
        assert!(chain.der()[0].windows(uri.len()).any(|bytes| bytes == uri.as_bytes()));
    }),
    same(SOURCE, "TestCertificateAuthority/expired ca", "nothing is signed; the request waits", || expired(ZERO)),
    same(SOURCE, "TestCertificateAuthority/expired ca with backdate", "nothing is signed; the request waits", || {
        expired(BACKDATE);
    }),
];

fn client() -> CertificateSigningRequest {
    csr("a", CLIENT, &["client auth", "digital signature"], &Template::new("a"))
}

/// A server on which `object` was created and approved. The server's CA expires in a day, and issues certificates of
/// the lifetime `lifetime` whose notBefore is `backdate` before the issue.
fn signed(lifetime: Duration, backdate: Duration, object: &CertificateSigningRequest) -> Server {
    let options = Options {
        approval: Approval::Manual,
        signing_duration: lifetime,
        backdate: Some(backdate),
        ..Options::default()
    };
    let mut server = Server::signed_by(options, DAY);
    assert_eq!(server.create(&admin(), object), 201);
    assert_eq!(server.approve("a"), 200);
    server
}

/// Seconds from now to notBefore, and from now to notAfter, of a certificate that was issued now with this lifetime and
/// backdating.
fn issued(lifetime: Duration, backdate: Duration) -> (i64, i64) {
    validity(&signed(lifetime, backdate, &client()))
}

fn validity(server: &Server) -> (i64, i64) {
    let validity = server.chain("a").unwrap().certificate().validity;
    (validity.not_before().as_secs() - START.as_secs(), validity.not_after().as_secs() - START.as_secs())
}

fn expired(backdate: Duration) {
    let options = Options { approval: Approval::Manual, backdate: Some(backdate), ..Options::default() };
    let mut server = Server::signed_by(options, HOUR);
    server.pass(HOUR + SECOND);
    assert_eq!(server.create(&admin(), &client()), 201);
    assert_eq!(server.approve("a"), 200);
    server.pass(HOUR);
    let object = server.object("a").unwrap();
    assert!(object.status.certificate.is_empty() && object.status.conditions.len() == 1);
}
