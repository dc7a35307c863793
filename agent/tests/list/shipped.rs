//! The list that is shipped as an example.

use super::*;

#[test]
fn shipped_list_gets_certificates_on_fresh_node() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--other-signers", "true"]);
    // The system's directories are in the test's directory. Without other users: only root can give files to them.
    let at = directory.display();
    let mut text = include_str!("../../deploy/certificates.yaml").replace("owner: 998, group: 998, ", "");
    for path in ["/etc/", "/run/", "/var/"] {
        text = text.replace(&format!(" {path}"), &format!(" {at}{path}"));
    }
    fs::write(directory.join("list.yaml"), text).unwrap();
    let put = |from: &str, to: &str| {
        let to = directory.join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(directory.join("signer").join(from), to).unwrap();
    };
    put("bootstrap.kubeconfig", "etc/kubernetes/bootstrap-kubelet.conf");
    put("ca.crt", "etc/etcd/issuer/ca.crt");
    let run = start_with(directory, &run_list(&["--node-name", "worker-1"]), &[("NODE_IP", "10.0.0.7")]);
    for name in ["kubelet-client", "kubelet-server", "etcd-server", "etcd-peer", "etcd-client", "node-agent"] {
        event_of(&run, name, "issued", 1);
    }
    for name in ["kube-proxy", "cni"] {
        event_of(&run, name, "waiting_for_approval", 1);
    }
    assert!(!stop(run).stderr.contains("cannot start"));
}
