//! The cases of csr_test.go, and the cases of bootstrap_test.go that are about a single request.

use std::path::Path;

use perennial::Failure;
use perennial_dev::{Approval, Decision, Options};
use perennial_kubernetes::client::DesiredCsr;
use perennial_kubernetes::kubeconfig::Kubeconfig;
use perennial_pki::{KeyError, KeyPair};
use perennial_rotation::{Identity, Issued, SignError};

use super::manager::error;
use super::{Row, different, same};
use perennial_tests::simulation::{
    HOUR, KUBELET_CLIENT, MINUTE, Node, SECOND, Server, admin, bootstrapper, csr_of, desired_csr, key,
};

const CSR: &str = "csr_test.go";
const BOOTSTRAP: &str = "bootstrap_test.go";
const ALWAYS_NAMED: &str = "no object without a signerName exists since v1, so none can be one of ours";
const OURS: &str = "example.com/test";

pub(crate) const ROWS: &[Row] = &[
    different(
        CSR,
        "TestEnsureCompatible/nil signerName on 'new' matches any signerName on 'orig'",
        "an object without a signer is refused by the API",
        ALWAYS_NAMED,
        || {
            let key = key();
            let mut server = Server::new(Options::default());
            assert_eq!(server.create(&admin(), &existing(&key, "")), 422);
        },
    ),
    different(
        CSR,
        "TestEnsureCompatible/nil signerName on 'orig' matches any signerName on 'new'",
        "a request without a signer is refused, with or without an existing object",
        ALWAYS_NAMED,
        || assert_eq!(found(OURS, "").unwrap_err().failure, Failure::Rejected),
    ),
    same(
        CSR,
        "TestEnsureCompatible/signerName on 'orig' matches signerName on 'new'",
        "the request continues with the existing object",
        || {
            assert!(found(KUBELET_CLIENT, KUBELET_CLIENT).is_ok());
        },
    ),
    same(
        CSR,
        "TestEnsureCompatible/signerName on 'orig' does not match signerName on 'new'",
        "the existing object is another requestor's: rejected, with the reason",
        || {
            let error = found("example.com/not-test", OURS).unwrap_err();
            assert_eq!(error.failure, Failure::Rejected);
            assert!(error.message.contains("another signer"), "{error}");
        },
    ),
    different(
        BOOTSTRAP,
        "TestLoadRESTClientConfig",
        "current-context decides about server and token; an authority that is no certificate is an error at once",
        "upstream's CA is the word \"Test\", and upstream does not read it before the first connection",
        || {
            let config = kubeconfig("certificate-authority-data: VGVzdA==");
            let selected = config.select(None).unwrap();
            assert_eq!(selected.context(), "context-b");
            selected.cluster(&mut read).unwrap_err();
            let identity = selected.identity(&mut read).unwrap();
            assert!(matches!(&identity, Identity::Token(token) if token.reveal() == "mytoken-b"));
            let named = kubeconfig("certificate-authority: ca.crt");
            let endpoint = named.select(None).unwrap().cluster(&mut read).unwrap();
            assert_eq!(endpoint.server, "https://cluster-b.com");
            assert!(endpoint.ca_pem.is_some());
        },
    ),
    same(BOOTSTRAP, "TestRequestNodeCertificateNoKeyData", "an error: there is no key", || {
        assert_eq!(KeyPair::from_pem("").err(), Some(KeyError::NoKey));
    }),
    same(BOOTSTRAP, "TestRequestNodeCertificateErrorCreatingCSR", "an error with a message", || {
        let error = error("answer: { status: 403 }");
        assert_eq!(error.failure, Failure::Forbidden);
        assert!(error.message.contains("certificatesigningrequests"), "{error}");
    }),
    different(
        BOOTSTRAP,
        "TestRequestNodeCertificate",
        "an issued certificate is accepted; other bytes, or a certificate for another key, are rejected",
        "upstream returns any bytes in the status",
        || {
            let mut server = Server::new(Options::default());
            let key = key();
            let issued = server.submit(&desired_csr(&key, KUBELET_CLIENT), MINUTE, |_| {}).unwrap().unwrap();
            assert_eq!(issued.chain.public_key_der(), key.public_key_der());
            for fault in ["truncated", "emptyChain"] {
                let mut server = Server::new(Options::default());
                server.faults(&format!("{{ fault: {{ certificate: {fault} }} }}"));
                let error =
                    server.submit(&desired_csr(&self::key(), KUBELET_CLIENT), HOUR, |_| {}).unwrap().unwrap_err();
                assert_eq!(error.failure, Failure::BadCertificate, "{fault}");
            }
            let mut server = Server::new(Options::default());
            server.faults("{ fault: { certificate: otherKey } }");
            let mut node = Node::new(server, None);
            node.run(SECOND);
            assert_eq!(node.rotation.machine().last_failure(), Some(Failure::BadCertificate));
            assert!(node.presents().is_none());
        },
    ),
];

/// The request object that the node `worker-1` submits to this signer with this key.
fn existing(key: &KeyPair, signer: &str) -> perennial_kubernetes::objects::CertificateSigningRequest {
    let DesiredCsr { name, request, usages, .. } = desired_csr(key, signer);
    let usages: Vec<&str> = usages.iter().map(String::as_str).collect();
    csr_of(&name, signer, &usages, request.pem)
}

/// Creates a request object for the signer `there`, then submits a request of the same name for the signer `asked`.
/// Returns the result of the submission.
fn found(there: &str, asked: &str) -> Result<Issued, SignError> {
    let mut server = Server::new(Options { approval: Approval::Manual, ..Options::default() });
    let key = key();
    assert_eq!(server.create(&bootstrapper(), &existing(&key, there)), 201);
    let desired_csr = desired_csr(&key, asked);
    let name = desired_csr.name.clone();
    let approve = |server: &mut Server| {
        let now = server.now().unix;
        server.api.decide(&name, Decision::Approve, "", now).unwrap();
    };
    let result = server.submit(&desired_csr, MINUTE, approve).unwrap();
    assert_eq!(server.api.requests().count(), 1, "there is no second one");
    result
}

fn kubeconfig(authority: &str) -> Kubeconfig {
    let text = format!(
        "apiVersion: v1
clusters:
- cluster: {{ server: 'https://cow.org:8080', {authority} }}
  name: cluster-a
- cluster: {{ server: 'https://cluster-b.com', {authority} }}
  name: cluster-b
contexts:
- context: {{ cluster: cluster-a, namespace: ns-a, user: user-a }}
  name: context-a
- context: {{ cluster: cluster-b, namespace: ns-b, user: user-b }}
  name: context-b
current-context: context-b
users:
- name: user-a
  user: {{ token: mytoken-a }}
- name: user-b
  user: {{ token: mytoken-b }}
"
    );
    Kubeconfig::parse(Path::new("/etc/kubeconfig"), &text).unwrap()
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    assert_eq!(path, Path::new("/etc/ca.crt"));
    Ok(Server::new(Options::default()).api.authority().certificate_pem().into())
}
