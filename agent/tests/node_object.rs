//! Serving certificates for the addresses of the Node object, with `run` as a process.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Process, RUN, Signer, run_arguments, start, until};
use perennial::Certificate;
use perennial_dev::{Api, ApiServer, Authority, Options, Random, ServingApproval, Tls, User};
use perennial_kubernetes::addresses::{AddressType, NodeAddress};
use perennial_kubernetes::kubeconfig::{Endpoint, kubeconfig_with_token};
use perennial_pki::Credential;
use perennial_rotation::clock;
use rustix::process::Signal;
use tempfile::TempDir;

const TOKEN: &str = "abcdef.0123456789abcdef";

fn address(kind: AddressType, address: &str) -> NodeAddress {
    NodeAddress { kind, address: address.into() }
}

/// Starts an API server with Node objects. Writes a kubeconfig for the server to `bootstrap` in the directory.
fn serve(path: &Path) -> ApiServer {
    let (mut random, now, day) = (Random::from_os().unwrap(), clock::now().unix, Duration::from_secs(86_400));
    let authority = Authority::generate(&mut random, now, day).unwrap();
    let own = authority.server_credential(&[], &[Ipv4Addr::LOCALHOST.into()], &mut random, now, day).unwrap();
    let tls = Tls::new(&authority, &own).unwrap();
    let ca_pem = Some(authority.certificate_pem().as_bytes().to_vec());
    let options = Options { approve_serving: ServingApproval::Own(Vec::new()), ..Options::default() };
    let mut api = Api::new(options, authority, random);
    api.add_token(TOKEN, User::bootstrap("abcdef"));
    let server = ApiServer::start(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), api, tls).unwrap();
    let endpoint = Endpoint { server: format!("https://{}", server.address()), ca_pem, ..Endpoint::default() };
    fs::write(path.join("bootstrap"), kubeconfig_with_token(&endpoint, "bootstrap", TOKEN).as_bytes()).unwrap();
    server
}

const SERVING: &str = "--rotate-server-certificates";

fn serving_certificate(run: &Process, path: &Path) -> Arc<Certificate> {
    until("serving certificate", || run.events("issued").into_iter().find(|event| event["of"] == "kubelet-server"));
    let pem = fs::read(path.join("pki/kubelet-server-current.pem")).unwrap();
    Credential::from_pem(&pem).unwrap().chain().certificate().clone()
}

/// From the field, `--node-ip ::` for the node's own IPv6 address: <https://github.com/kubernetes/kops/pull/12188>
#[test]
fn all_zeros_node_ip_selects_node_addresses_of_its_family() {
    for (flag, ip, name) in [("::", "fd00::7", "worker.internal"), ("0.0.0.0", "10.0.0.7", "worker.internal")] {
        let directory = TempDir::new().unwrap();
        let path = directory.path();
        let server = serve(path);
        let addresses = [
            address(AddressType::InternalIp, "10.0.0.7"),
            address(AddressType::InternalIp, "fd00::7"),
            address(AddressType::InternalIp, "fe80::7"),
            address(AddressType::InternalDns, name),
        ];
        server.with_api(|api, now| api.put_node("worker", &addresses, now)).unwrap();
        let run = start(path, &[&RUN[..], &[SERVING, "--node-ip", flag]].concat());
        let facts = serving_certificate(&run, path);
        assert!(facts.names.ip_addresses().eq([ip.parse::<std::net::IpAddr>().unwrap()]), "{flag}: {facts:?}");
        assert!(facts.names.dns_names().eq([name]), "{facts:?}");
        let warning = "ignoring an address of node worker: InternalIP fe80::7: this is a link-local address";
        run.logged(warning);
    }
}

#[test]
fn serving_certificate_has_node_object_addresses() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let server = serve(path);
    let run = start(path, &[&RUN[..], &[SERVING]].concat());
    until("complaint about the missing object", || {
        run.stderr().contains("there is no Node object of that name yet").then_some(())
    });
    let addresses = [
        address(AddressType::InternalIp, "10.0.0.7"),
        address(AddressType::InternalDns, "worker.internal"),
        // Unusable addresses are left out, and the others used.
        address(AddressType::Other, "10.1.0.1"),
        address(AddressType::ExternalDns, "10.0.0.256"),
    ];
    server.with_api(|api, now| api.put_node("worker", &addresses, now)).unwrap();
    // Reads the Node object at once instead of at the next poll.
    run.signal(Signal::HUP);
    let facts = serving_certificate(&run, path);
    assert!(facts.names.ip_addresses().eq(["10.0.0.7".parse::<std::net::IpAddr>().unwrap()]), "{facts:?}");
    // The node's name is left out: approvers deny names that the Node object does not have.
    assert!(facts.names.dns_names().eq(["worker.internal"]), "{facts:?}");
    for reason in
        ["Other 10.1.0.1: this type of address is unknown", "ExternalDNS 10.0.0.256: this is a malformed IP address"]
    {
        let warning = format!("ignoring an address of node worker: {reason}");
        run.logged(&warning);
        assert_eq!(run.stderr().matches(&warning).count(), 1, "{}", run.stderr());
    }
}

#[test]
fn client_certificate_refused_while_reading_node_object_is_replaced() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let faults = "rules: [{ match: { path: /api/v1/nodes/* }, times: 1, fault: { answer: { status: 401 } } }]";
    fs::write(path.join("faults.yaml"), faults).unwrap();
    let signer = Signer::start(path, &["--faults", "faults.yaml"]);
    let mut run = start(path, &run_arguments(&["--json", "--rotate-server-certificates"]));
    run.event("issued", 1);
    assert_eq!(run.event("rotated", 1)["of"], "kubelet-client");
    assert_eq!(signer.bootstraps(), 2, "a certificate that is refused does not renew itself");
}
