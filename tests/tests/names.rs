//! Names of all kinds, such as URIs (SPIFFE IDs), organizational units and the serial number of a device. The names of
//! a template must be in the CSR and in the issued certificate, as openssl reads them.

use std::time::Duration;

use perennial::{State, Template};
use perennial_dev::{Approval, ClusterSetup, Decision, Options, TestCluster};
use perennial_pki::{KeyAlgorithm, KeyPair, Usage, certificate_request};
use perennial_rotation::{Handle, Memory, Rotator};
use perennial_tests::loopback::{BOUND, issued, waits_for_approval};
use perennial_tests::openssl::openssl;

const SIGNER: &str = "example.com/mesh";
const ID: &str = "spiffe://mesh.example/ns/shop/sa/payments";

fn full() -> Template {
    Template::new("payments")
        .with_organizations(["shop"])
        .with_organizational_units(["till", "front"])
        .with_serial_number("PID:A-17 SN:0042")
        .with_dns_names(["payments.shop.example"])
        .with_ip_addresses([[192, 0, 2, 7].into()])
        .with_uris([ID])
}

/// Checks that openssl reads the names of [`full`] from a CSR (`req`) or a certificate (`x509`) in PEM.
fn assert_full(command: &str, pem: &str) {
    let subject = openssl(&format!("{command} -noout -subject -nameopt RFC2253"), pem);
    // RFC 2253 shows the last name first. In DER, the shorter organizational unit comes first.
    assert_eq!(subject.trim(), "subject=serialNumber=PID:A-17 SN:0042,CN=payments,OU=front+OU=till,O=shop");
    let text = openssl(&format!("{command} -noout -text"), pem);
    let names = format!("DNS:payments.shop.example, IP Address:192.0.2.7, URI:{ID}\n");
    assert!(text.contains(&names), "{text}");
    assert!(!text.contains("Subject Alternative Name: critical"), "{text}");
}

fn start(cluster: &TestCluster, template: Template) -> Handle {
    let signer = cluster.signer(SIGNER, Usage::ClientAuth);
    perennial_std::start(Rotator::new().template(template).signer(signer)).unwrap()
}

#[test]
fn csr_and_issued_certificate_carry_all_names_for_openssl() {
    let key = KeyPair::generate(KeyAlgorithm::default()).unwrap();
    assert_full("req", &certificate_request(&full(), &key).unwrap().pem);

    let cluster = TestCluster::start().unwrap();
    let handle = start(&cluster, full());
    let first = issued(&handle, 1);
    assert_full("x509", &first.chain().pem());
    assert_eq!(*first.chain().certificate().names, full());
    handle.rotate_now();
    assert_full("x509", &issued(&handle, 2).chain().pem());
    handle.shutdown().wait();
}

/// A service has a SPIFFE ID and no other name, so that the subject of its certificate is empty. In this case, RFC 5280
/// §4.2.1.6 demands that the extension with the SPIFFE ID is critical.
#[test]
fn spiffe_id_alone_is_issued_in_a_critical_extension() {
    let cluster = TestCluster::start().unwrap();
    let handle = start(&cluster, Template::default().with_uris([ID]));
    let text = openssl("x509 -noout -text", issued(&handle, 1).chain().pem());
    assert!(text.contains("X509v3 Subject Alternative Name: critical"), "{text}");
    assert!(text.contains(&format!("URI:{ID}\n")), "{text}");
    handle.shutdown().wait();
}

#[test]
fn changed_uri_is_requested_while_old_certificate_serves() {
    let cluster = TestCluster::start().unwrap();
    let handle = start(&cluster, full());
    let first = issued(&handle, 1);
    let refused = handle.set_template(Some(full().with_uris(["https://mesh.example"]))).unwrap_err();
    assert!(refused.to_string().contains("another URI beside a SPIFFE ID"), "{refused}");
    assert_eq!(handle.credential().unwrap().chain(), first.chain());

    let other = "spiffe://mesh.example/ns/shop/sa/refunds";
    handle.set_template(Some(Template::new("payments").with_uris([other]))).unwrap();
    assert!(issued(&handle, 2).chain().uris().eq([other]));
    assert_eq!(cluster.requests().len(), 2);
    handle.shutdown().wait();
}

#[test]
fn pending_request_for_all_names_survives_a_restart() {
    let options = Options { approval: Approval::Manual, other_signers: true, ..Options::default() };
    let cluster = TestCluster::start_with(ClusterSetup { options, ..ClusterSetup::default() }).unwrap();
    // Not a directory: a process that is being started for another test may have inherited the lock of the first rotation.
    let store = Memory::default();
    let begin = || {
        let signer = cluster.signer(SIGNER, Usage::ClientAuth);
        perennial_std::start(Rotator::new().template(full()).signer(signer).store(store.clone())).unwrap()
    };
    let handle = begin();
    let name = waits_for_approval(&handle);
    handle.shutdown().wait();
    drop(handle);

    let handle = begin();
    assert_eq!(waits_for_approval(&handle), name);
    assert_eq!(cluster.requests().len(), 1, "the record has all names, so that the request goes on");
    cluster.decide(&name, Decision::Approve).unwrap();
    assert_full("x509", &issued(&handle, 1).chain().pem());
    handle.shutdown().wait();
}

#[test]
fn kubelet_signer_refuses_uri_before_a_request_object_is_created() {
    let cluster = TestCluster::start().unwrap();
    let template = Template::node("worker-1").with_uris([ID]);
    let handle = perennial_std::start(Rotator::new().template(template).signer(cluster.node_signer())).unwrap();
    let failed = handle.wait_for(|now| matches!(now.state, State::BackingOff { .. })).within(BOUND).unwrap();
    let State::BackingOff { last, .. } = failed.state else { unreachable!() };
    assert_eq!(last, perennial::Failure::Rejected);
    let error = failed.last_error.as_deref().unwrap();
    assert!(error.contains("kubernetes.io/kube-apiserver-client-kubelet admits no URIs"), "{error}");
    assert_eq!(cluster.requests().len(), 0);
    handle.set_template(Some(Template::node("worker-1"))).unwrap();
    issued(&handle, 1);
    handle.wait_for(|now| matches!(now.state, State::Scheduled { .. })).within(Duration::from_secs(60)).unwrap();
    handle.shutdown().wait();
}
