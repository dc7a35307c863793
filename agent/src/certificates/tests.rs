use std::path::{Path, PathBuf};
use std::time::Duration;

use perennial::{Policy, Window};
use perennial_pki::{KeyAlgorithm, KeyEncoding, Usage};
use perennial_rotation::{CaCopy, FileLayout, FileOptions};

use super::member::PidFile;
use super::*;

mod conflicts;
mod pods;
mod trust_bundles;

fn parse(text: &str) -> Result<List, Vec<String>> {
    let variables = |name: &str| (name == "NODE_NAME").then(|| "worker-1".to_owned());
    let list = List::parse(Path::new("/etc/perennial/certificates.yaml"), text, &variables);
    list.map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// A list with these lines as its only member, in addition to the fields that every member needs.
fn with(lines: &str) -> String {
    let has = |key: &str| lines.lines().any(|line| line.starts_with(&format!("  {key}:")));
    let needed = [
        ("name", "a"),
        ("signer", "example.com/mesh"),
        ("commonName", "a"),
        ("identity", "{kubeconfig: /k}"),
        ("store", "{bundle: {file: /a.pem}}"),
    ];
    let needed = needed.into_iter().filter(|(key, _)| !has(key)).map(|(key, value)| format!("  {key}: {value}\n"));
    format!("apiVersion: perennial/v1\ncertificates:\n-\n{lines}\n{}", needed.collect::<String>())
}

/// Asserts that the text has exactly one error, which contains `why`.
fn refuses(text: &str, why: &str) {
    let faults = parse(text).expect_err(text);
    assert!(faults.len() == 1 && faults[0].contains(why), "{text}\nexpected: {why}\nfound: {faults:#?}");
}

#[test]
fn list_with_every_field_is_read() {
    let list = parse(
        "\
# The certificates of a node.
apiVersion: perennial/v1
defaults:
  signer: kubernetes.io/kube-apiserver-client
  identity: {certificate: node}
  access: {owner: 998, group: '997', mode: 0640, certificateMode: 0444}
  timing: {rotationWindow: 50%-60%}
certificates:
- name: node
  signer: kubernetes.io/kube-apiserver-client-kubelet
  commonName: system:node:${NODE_NAME}
  organizations: [system:nodes]
  identity: {bootstrapKubeconfig: /etc/kubernetes/bootstrap-kubelet.conf}
  clusterKubeconfig: /etc/kubernetes/kubelet.conf
  store: {directory: {path: /var/lib/kubelet/pki/, prefix: kubelet-client}}
- name: etcd-peer
  signer: example.com/etcd
  commonName: etcd
  dnsNames: ['${NODE_NAME}.etcd', localhost]
  ipAddresses: [127.0.0.1, '::1']
  uris: ['spiffe://example.com/etcd']
  usages: [digital signature, client auth, server auth]
  keyType: p384
  keyEncoding: sec1
  lifetime: 24h
  issuerCAFile: /etc/etcd/ca.crt
  acceptExtraRights: true
  timing: {policy: kubelet, retry: 1s-2m}
  after: [proxy]
  store: {linked: {path: /etc/etcd/pki, certificate: peer.crt, key: peer.key, ca: ca.crt}}
  replaceForeign: true
  onRotated: {run: [systemctl, reload, etcd], timeout: 1m, pidFile: /run/etcd.pid, signal: USR1}
- name: proxy
  commonName: system:kube-proxy
  store: {files: {certificate: /etc/proxy/tls.crt, key: /etc/proxy/private/tls.key}}
  onRotated: {pidFile: /run/proxy.pid}
- name: cni
  commonName: cni
  identity: {tokenFile: /var/run/token}
  clusterKubeconfig: /etc/kubernetes/kubelet.conf
  store: {bundle: {file: /etc/cni/cni.pem}}
",
    )
    .unwrap();
    let [node, etcd, proxy, cni] = &list.members[..] else { panic!("{list:?}") };
    assert_eq!(node.template.common_name(), "system:node:worker-1");
    let pki = Location::Directory { path: "/var/lib/kubelet/pki".into(), prefix: "kubelet-client".into() };
    assert_eq!((&node.location, &node.policy.window), (&pki, &Window::new(500, 600).unwrap()));
    assert_eq!(node.cluster_kubeconfig, Path::new("/etc/kubernetes/kubelet.conf"));

    assert!(etcd.template.dns_names().eq(["localhost", "worker-1.etcd"]), "{}", etcd.template);
    assert_eq!(etcd.template.ip_addresses().count(), 2);
    assert_eq!(etcd.required_usages, [Usage::ClientAuth, Usage::ServerAuth]);
    let Location::Files(layout, options) = &etcd.location else { panic!("{etcd:?}") };
    assert_eq!((etcd.key_type, options.key_encoding), (KeyAlgorithm::EcdsaP384, KeyEncoding::Sec1));
    assert_eq!((etcd.lifetime, etcd.accepts_extra_rights), (Some(Duration::from_secs(86_400)), true));
    assert_eq!(etcd.policy.window, Policy::kubelet().window, "a member's timing replaces that of defaults");
    assert_eq!(etcd.after, ["node", "proxy"]);
    assert_eq!(etcd.asker, Asker::Member("node".into()));
    assert_eq!(etcd.cluster_kubeconfig, node.cluster_kubeconfig, "that of the identity");
    let linked = FileLayout::Linked {
        directory: "/etc/etcd/pki".into(),
        certificate: "peer.crt".into(),
        key: "peer.key".into(),
    };
    let expected = FileOptions {
        owner: Some(998),
        group: Some(997),
        key_mode: 0o640,
        certificate_mode: 0o444,
        key_encoding: KeyEncoding::Sec1,
        ca: Some(CaCopy { from: "/etc/etcd/ca.crt".into(), to: "/etc/etcd/pki/ca.crt".into() }),
        replaces_foreign: true,
    };
    assert_eq!((layout, options), (&linked, &expected));
    let command = etcd.reaction.command.as_ref().unwrap();
    assert_eq!((command.arguments.len(), command.timeout), (3, Duration::from_secs(60)));
    let signal = PidFile { path: "/run/etcd.pid".into(), signal: Signal::Usr1 };
    assert_eq!(etcd.reaction.signal, Some(signal));

    assert_eq!((proxy.signer.as_str(), &proxy.usages), ("kubernetes.io/kube-apiserver-client", &None));
    assert_eq!(proxy.required_usages, [Usage::ClientAuth]);
    assert_eq!(proxy.reaction.signal.as_ref().unwrap().signal, Signal::Hup);
    let Location::Files(layout, options) = &cni.location else { panic!("{cni:?}") };
    assert_eq!((layout, &options.ca), (&FileLayout::Bundle { file: "/etc/cni/cni.pem".into() }, &None));
    assert_eq!((&cni.asker, cni.after.len()), (&Asker::TokenFile(PathBuf::from("/var/run/token")), 0));
}

#[test]
fn all_errors_are_reported_in_order_with_line_column_and_member() {
    let faults = parse(
        "\
apiVersion: perennial/v2
defaults:
  keyTyp: p256
certificates:
- name: Proxy
  signer: example.com/mesh
  commonNam: proxy
  identity: {certificate: nod}
  store: {bundle: {file: proxy.pem}}
- signer: kubernetes.io/kubelet-serving
  commonName: ${ABSENT}
  lifetime: 5m
  identity: {kubeconfig: /k, tokenFile: /t}
  store: {}
- name: node
  signer: example.com/mesh
  commonName: node
  usages: [client-auth, 'server auth']
  identity: {kubeconfig: /k}
  store: {bundle: {file: /node.pem}}
  onRotated: {signal: KILL}
",
    )
    .unwrap_err();
    let expected = [
        "1:13: apiVersion: expected perennial/v1, the only version that this perennial reads",
        "3:3: defaults.keyTyp: unknown key; did you mean keyType?",
        "5:3: certificate Proxy: no names: add `commonName`, `dnsNames`, `ipAddresses` or `uris`",
        "5:9: certificate Proxy: name: expected a DNS label: at most 63 lower-case letters, digits and '-', for example \
         kube-proxy",
        "7:3: certificate Proxy: commonNam: unknown key; did you mean commonName?",
        "9:26: certificate Proxy: store.bundle.file: expected an absolute path without `..`, for example \
         /etc/kubernetes/pki, found `proxy.pem`",
        "10:3: certificate 2: `name` is missing; add it, for example `name: kube-proxy`",
        "11:15: certificate 2: commonName: the environment variable ABSENT is not set or is empty; set it in perennial's \
         environment, or write the value instead",
        "12:13: certificate 2: lifetime: the API accepts ten minutes at least, for example 10m or 24h",
        "13:13: certificate 2: identity: kubeconfig and tokenFile exclude each other; keep one",
        "14:10: certificate 2: store: has none of the keys directory, linked, files, bundle, volume; \
         add one of them",
        "18:12: certificate node: usages[0]: unknown usage `client-auth` of a CSR; did you mean `client auth`?",
        "21:14: certificate node: onRotated: add `run`, a command, or `pidFile`, the file with the ID of a process to \
         signal",
        "21:23: certificate node: onRotated.signal: expected HUP, USR1 or USR2",
        "21:23: certificate node: onRotated.signal: has no effect without `pidFile`; add `pidFile`, or remove this key",
    ];
    assert_eq!(faults, expected, "{faults:#?}");
}

#[test]
fn misspelt_key_of_defaults_is_one_error() {
    let list = |defaults: &str| {
        let members = ["a", "b"]
            .map(|name| format!("- {{name: {name}, commonName: {name}, store: {{bundle: {{file: /{name}.pem}}}}}}\n"));
        format!("apiVersion: perennial/v1\ndefaults: {{{defaults}}}\ncertificates:\n{}", members.concat())
    };
    let faults = parse(&list("sgner: example.com/mesh, identiy: {kubeconfig: /k}")).unwrap_err();
    let expected = [
        "2:12: defaults.sgner: unknown key; did you mean signer?",
        "2:37: defaults.identiy: unknown key; did you mean identity?",
    ];
    assert_eq!(faults, expected, "{faults:#?}");
    // A default without a value stands for none.
    let faults = parse(&list("signer: , identity: {kubeconfig: /k}")).unwrap_err();
    assert!(faults.len() == 2 && faults.iter().all(|fault| fault.contains("`signer` is missing")), "{faults:#?}");
}

#[test]
fn wrong_value_is_refused_with_its_remedy() {
    for (lines, why) in [
        ("  name: ''", "name: expected a DNS label"),
        ("  signer: mesh", "4:11: certificate a: signer: the signer name `mesh` has not the form `example.com/"),
        ("  signer: example.com/a b", "signer: the signer name `example.com/a b` has not the form"),
        ("  commonName: [a]", "commonName: expected text, found a list"),
        ("  dnsNames: a.example", "dnsNames: expected a list, for example [a, b], found text"),
        ("  dnsNames: [a b]", "4:14: certificate a: dnsNames[0]: "),
        ("  ipAddresses: [10.0.0]", "ipAddresses[0]: `10.0.0` is no IP address"),
        ("  usages: [digital signature]", "one usage must be 'client auth' or 'server auth'"),
        ("  keyType: p192", "keyType: expected p256, p384, p521, ed25519, rsa or rsa4096"),
        #[cfg(not(feature = "aws-lc-rs"))]
        (
            "  keyType: p521",
            "keyType: this build cannot generate ecdsa-p521 keys: it lacks the feature aws-lc-rs; use p256",
        ),
        #[cfg(not(feature = "aws-lc-rs"))]
        ("  keyType: rsa4096", "keyType: this build cannot generate rsa-4096 keys"),
        ("  keyEncoding: pkcs1", "keyEncoding: pkcs1 is for RSA keys"),
        ("  keyType: ed25519\n  keyEncoding: sec1", "5:16: certificate a: keyEncoding: pkcs1 is for RSA keys and sec1"),
        ("  timing: {rotationWindow: 90%-70%}", "timing.rotationWindow: the window ends before it begins"),
        ("  lifetime: 10m\n  timing: {rotationWindow: 1%-2%}", "could expire with this timing, which is for "),
        ("  timing: {retry-refuse: 3}", "timing.retry-refuse: unknown key; did you mean retryRefused?"),
        ("  access: {mode: 0644}", "access.mode: expected a mode of at most 0640"),
        ("  access: {mode: 0660}", "access.mode: expected a mode of at most 0640"),
        ("  access: {certificateMode: 0666}", "access.certificateMode: expected a mode of at most 0644"),
        ("  access: {mode: 600x}", "access.mode: expected a mode"),
        ("  access: {owner: no-such-user}", "/etc/passwd has no user `no-such-user`"),
        ("  access: {group: no-such-group}", "/etc/group has no group `no-such-group`"),
        ("  acceptExtraRights: yes", "acceptExtraRights: expected true or false"),
        ("  identity: {bootstrapKubeconfig: /b}", "this certificate cannot request its own successor"),
        ("  identity: {tokenFile: /t}", "a token names no API server; add `clusterKubeconfig`"),
        ("  identity: {certificate: a}", "a certificate cannot wait for itself"),
        ("  after: [b]", "after: no certificate of this list has the name b"),
        ("  store: {files: {certificate: /c}}", "store.files: `key` is missing"),
        ("  store: {linked: {path: /a, key: ../b}}", "store.linked.key: expected a file name"),
        ("  store: {linked: {path: /a, key: ..data}}", "store.linked.key: expected a file name"),
        ("  store: {linked: {path: /a, ca: ca.crt}}", "store.linked.ca: this file is a copy of `issuerCAFile`"),
        ("  store: {directory: {path: /a, prefix: .b}}", "store.directory.prefix: expected a file name prefix"),
        (
            "  store: {directory: {path: /a, prefix: b}}\n  access: {mode: 0640}",
            "access: does not apply to `store.directory`",
        ),
        ("  onRotated: {run: []}", "onRotated.run: expected a command and its arguments"),
        ("  onRotated: {pidFile: /p, timeout: 5s}", "onRotated.timeout: has no effect without `run`"),
        ("  name: a\n  name: a", "5:3: certificate a: name: given twice; remove one"),
        ("  uris: &x [b]", "4:12: anchors (&) and aliases (*) are not supported"),
        ("  uris: !!str b", "tags (!) are not supported"),
        ("  commonName: \"a", "not valid YAML: "),
        ("  [a]: b", "a key cannot be a list"),
        ("  lifetime: 1h\n---\n  a: b", "a second document begins here"),
    ] {
        refuses(&with(lines), why);
    }
    for (text, why) in [
        ("", "1:1: `apiVersion` is missing"),
        ("apiVersion: perennial/v1", "1:1: `certificates` is missing"),
        ("apiVersion: perennial/v1\ncertificates: []", "2:15: certificates: the list is empty"),
        (
            "apiVersion: perennial/v1\ncertificates: a",
            "2:15: certificates: expected a list of certificates, found text",
        ),
        ("- a", "1:1: expected keys and values (`key: value`), found a list"),
        (
            "apiVersion: perennial/v1\ncertificates: [a]",
            "2:16: certificate 1: expected keys and values (`key: value`), found text",
        ),
    ] {
        let faults = parse(text).expect_err(text);
        assert!(faults.iter().any(|fault| fault.contains(why)), "{text}: {faults:#?}");
    }
}

#[test]
fn timing_follows_from_requested_lifetime_unless_given() {
    let policy = |lines: &str| parse(&with(lines)).unwrap().members[0].policy.clone();
    assert_eq!(policy("  lifetime: 10m"), Policy::for_lifetime(Duration::from_secs(600)));
    assert_ne!(policy("  lifetime: 10m"), Policy::default());
    assert_eq!(policy("  keyType: p256"), Policy::default());
    assert_eq!(policy("  lifetime: 24h\n  timing: {policy: kubelet}"), Policy::kubelet());
}

/// A list of members with these names, each followed by further fields.
fn members(members: &[(&str, &str)]) -> String {
    let one = |(name, fields): &(&str, &str)| {
        let identity = if fields.contains("identity:") { "" } else { ", identity: {kubeconfig: /k}" };
        let store = format!(", store: {{bundle: {{file: /{name}.pem}}}}");
        let store = if fields.contains("store:") { "" } else { &store };
        let signer = "kubernetes.io/kube-apiserver-client";
        format!("- {{name: {name}, commonName: {name}, signer: {signer}{identity}{store}, {fields}}}\n")
    };
    format!("apiVersion: perennial/v1\ncertificates:\n{}", members.iter().map(one).collect::<String>())
}

#[test]
fn dependency_cycle_and_wrong_identity_are_refused() {
    refuses(
        &members(&[("a", "after: [b]"), ("b", "after: [c]"), ("c", "after: [a]")]),
        "waits for the next: a -> b -> c -> a",
    );
    refuses(&members(&[("a", "after: [b]"), ("b", "identity: {certificate: a}")]), "waits for the next: a -> b -> a");
    refuses(
        &members(&[("a", ""), ("a", "store: {bundle: {file: /b}}")]),
        "another certificate has this name, in line 3",
    );
    let other =
        "signer: example.com/mesh, commonName: b, name: b, identity: {kubeconfig: /k}, store: {bundle: {file: /b}}";
    let text = members(&[("a", "identity: {certificate: b}")]) + &format!("- {{{other}}}\n");
    refuses(&text, "do not accept the certificate b, from the signer example.com/mesh, as an identity");
    refuses(&members(&[("proxy", ""), ("b", "after: [proxi]")]), "has the name proxi; did you mean proxy?");
    let diamond = [("a", "after: [b, c]"), ("b", "after: [d]"), ("c", "after: [d, d]"), ("d", "")];
    assert_eq!(parse(&members(&diamond)).unwrap().members[2].after, ["d"]);
}

#[test]
fn name_with_variable_counts_as_the_name_that_it_stands_for() {
    let node = ("'${NODE_NAME}'", "store: {bundle: {file: /a}}");
    let list = parse(&members(&[node, ("b", "after: [worker-1]")])).unwrap();
    assert_eq!((list.members[0].name.as_str(), &*list.members[1].after), ("worker-1", &["worker-1".to_owned()][..]));
    refuses(&members(&[node, ("worker-1", "")]), "certificate worker-1: name: another certificate has this name");
    refuses(&with("  name: ${ABSENT}"), "4:9: certificate 1: name: the environment variable ABSENT is not set");
}

#[test]
fn guesses_for_unknown_names_are_bounded() {
    let unknown: Vec<_> = (0..100).map(|n| (format!("m{n}"), format!("after: [mm{}]", n % 50))).collect();
    let list: Vec<_> = unknown.iter().map(|(name, fields)| (name.as_str(), fields.as_str())).collect();
    let faults = parse(&members(&list)).unwrap_err();
    assert!(faults[0].contains("has the name mm0; did you mean m"), "{}", faults[0]);
    // Each name twice.
    assert_eq!((faults.len(), faults.iter().filter(|fault| fault.contains("did you mean")).count()), (100, 40));
}

#[test]
fn cluster_is_inherited_through_long_chain_of_identities() {
    let first = (0..1000).map(|n| (format!("m{n}"), format!("identity: {{certificate: m{}}}", n + 1)));
    let last = ("m1000".to_owned(), "identity: {bootstrapKubeconfig: /b}, clusterKubeconfig: /c".to_owned());
    let chain: Vec<_> = first.chain([last]).collect();
    let chain: Vec<_> = chain.iter().map(|(name, fields)| (name.as_str(), fields.as_str())).collect();
    let list = parse(&members(&chain)).unwrap();
    assert!(list.members.iter().all(|member| member.cluster_kubeconfig == Path::new("/c")));
}

#[test]
fn names_and_usages_that_the_signer_refuses_are_refused() {
    let signer = "  signer: kubernetes.io/kube-apiserver-client\n";
    refuses(&with(&format!("{signer}  organizations: ['system:masters']")), "refuse a request for the organization");
    refuses(
        &with(&format!("{signer}  usages: [server auth]")),
        "usages: the signer kubernetes.io/kube-apiserver-client",
    );
    refuses(&with(&format!("{signer}  usages: [client auth, any]")), "needs the usages client auth, admits");
    parse(&with(&format!("{signer}  usages: [client auth]"))).unwrap();
    parse(&with("  usages: [server auth]")).unwrap();
}

#[test]
fn hostile_text_gives_errors_without_panic() {
    let deep = format!("apiVersion: {}1{}", "[".repeat(1000), "]".repeat(1000));
    let long = format!("apiVersion: perennial/v1\ncertificates: [{}]", "{},".repeat(20_000));
    let texts = [deep.as_str(), &long, "\u{feff}", "{", "a: b: c", "? ? ?", "\0", "certificates: {a: {}}", "\t- a"];
    for text in texts {
        assert!(parse(text).is_err_and(|faults| !faults.is_empty()), "{}", &text[..text.len().min(50)]);
    }
}
