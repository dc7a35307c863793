//! Trust bundles of a list.

use perennial_kubernetes::BundleSelection;

use super::*;
use crate::cli::TrustBundle;

/// A list with one certificate, `node`, and these lines as the items of `trustBundles`.
fn with_bundles(bundles: &str) -> String {
    let node = "{name: node, signer: kubernetes.io/kube-apiserver-client, commonName: node, \
                identity: {bootstrapKubeconfig: /k}, store: {linked: {path: /node}}}";
    format!("apiVersion: perennial/v1\ncertificates:\n- {node}\ntrustBundles:\n{bundles}")
}

#[test]
fn trust_bundles_with_every_field_are_read() {
    let list = parse(&with_bundles(
        "\
- {signer: example.com/mesh, labels: 'live,tier in (a,b)', path: /etc/mesh/ca.pem, identity: {certificate: node}}
- name: company
  path: /etc/company.pem
  identity: {tokenFile: /token}
  clusterKubeconfig: /c
  access: {owner: 998, group: '997', mode: 0440}
  replaceForeign: true
",
    ))
    .unwrap();
    let [mesh, company] = &list.trust_bundles[..] else { panic!("{:?}", list.trust_bundles) };
    let selection = BundleSelection::Signer { name: "example.com/mesh".into(), labels: "live,tier in (a,b)".into() };
    let bundle = TrustBundle { selection, path: "/etc/mesh/ca.pem".into(), options: FileOptions::default() };
    let (asker, cluster_kubeconfig) = (Asker::Member("node".into()), "/k".into());
    assert_eq!(*mesh, ListedBundle { bundle, asker, cluster_kubeconfig, volume: None });
    let options = FileOptions {
        owner: Some(998),
        group: Some(997),
        certificate_mode: 0o440,
        replaces_foreign: true,
        ..FileOptions::default()
    };
    let selection = BundleSelection::Name("company".into());
    let bundle = TrustBundle { selection, path: "/etc/company.pem".into(), options };
    let (asker, cluster_kubeconfig) = (Asker::TokenFile("/token".into()), "/c".into());
    assert_eq!(*company, ListedBundle { bundle, asker, cluster_kubeconfig, volume: None });
}

#[test]
fn trust_bundle_errors_name_key_and_remedy() {
    const GOOD: &str = "{name: a, path: /a.pem, identity: {kubeconfig: /k}}";
    for (item, why) in [
        ("{path: /a, identity: {kubeconfig: /k}}", "add `signer` to follow all bundles of a signer, or `name`"),
        (
            "{signer: example.com/a, name: a, path: /a, identity: {kubeconfig: /k}}",
            "signer and name exclude each other",
        ),
        ("{signer: a, path: /a, identity: {kubeconfig: /k}}", "signer: the signer name `a` has not the form"),
        ("{name: a, labels: b, path: /a, identity: {kubeconfig: /k}}", "labels select among the bundles of a signer"),
        (
            "{signer: example.com/a, labels: 'tier in a', path: /a, identity: {kubeconfig: /k}}",
            "6:35: trust bundle 2: labels: unexpected `a` in the label selector: expected `(` after `in` or `notin`",
        ),
        (
            "{name: Company, path: /a, identity: {kubeconfig: /k}}",
            "6:10: trust bundle 2: name: `Company` is no name of a ClusterTrustBundle",
        ),
        ("{name: a, path: a, identity: {kubeconfig: /k}}", "expected an absolute path"),
        ("{name: a, identity: {kubeconfig: /k}}", "path"),
        ("{name: a, path: /a}", "identity"),
        (
            "{name: a, path: /a, identity: {bootstrapKubeconfig: /k, kubeconfig: /k}}",
            "bootstrapKubeconfig: unknown key",
        ),
        ("{name: a, path: /a, identity: {tokenFile: /t}}", "a token names no API server; add `clusterKubeconfig`"),
        ("{name: a, path: /a, identity: {certificate: nodes}}", "no certificate of this list has the name nodes"),
        ("{name: a, path: /a, identity: {kubeconfig: /k}, access: {mode: 0666}}", "expected a mode of at most 0644"),
        ("{name: a, path: /a, identity: {kubeconfig: /k}, file: /b}", "file"),
        ("{name: a, path: /node/ca.pem, identity: {kubeconfig: /k}}", "lies in the directory of certificate node"),
        (
            "{name: a, path: /node/tls.crt, identity: {kubeconfig: /k}}",
            "/node/tls.crt is a file of certificate node, too",
        ),
        ("{name: b, path: /a.pem, identity: {kubeconfig: /k}}", "/a.pem is the file of trust bundle 1, too"),
        (
            "{name: b, path: /etc/perennial/certificates.yaml, identity: {kubeconfig: /k}}",
            "is this certificate list, too",
        ),
    ] {
        refuses(&with_bundles(&format!("- {GOOD}\n- {item}\n")), why);
    }
    refuses(&with_bundles("  {name: a}"), "expected a list of trust bundles, found");
    let many = format!("- {GOOD}\n").repeat(101);
    refuses(&with_bundles(&many), "more than 100 trust bundles");
}
