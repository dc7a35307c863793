//! The certificates of pods, and stores in volumes.

use std::collections::BTreeMap;

use perennial::Template;
use perennial_kubernetes::PodIdentity;
use perennial_rotation::Projection;
use perennial_rotation::volume::FileAccess;

use super::*;
use crate::certificates::member::{Pod, VolumeFiles};

const POD: &str = "  pod: {namespace: shop, name: web-0, uid: u1, serviceAccountName: web, serviceAccountUID: s1}\n";

/// A list with a certificate of a pod, which has these lines in addition to the fields that it needs.
fn of_pod(lines: &str) -> String {
    let has = |key: &str| lines.lines().any(|line| line.starts_with(&format!("  {key}:")));
    let needed = [
        ("name", "name: a"),
        ("signer", "signer: example.com/mesh"),
        ("identity", "identity: {kubeconfig: /k}"),
        ("node", "node: {uid: n1}"),
        ("pod", POD.trim()),
        ("store", "store: {volume: {path: /v, bundle: b.pem}}"),
    ];
    let needed = needed.into_iter().filter(|(key, _)| !has(key)).map(|(_, line)| format!("  {line}\n"));
    format!("apiVersion: perennial/v1\ncertificates:\n-\n{lines}\n{}", needed.collect::<String>())
}

#[test]
fn pods_with_every_field_are_read() {
    let list = parse(
        "\
apiVersion: perennial/v1
defaults:
  signer: example.com/mesh
  organizations: [of other certificates]
  usages: [client auth]
  keyEncoding: pkcs8
  identity: {kubeconfig: /k}
  node: {uid: n1}
  access: {owner: 1000, group: 1001, mode: 0400, certificateMode: 0444}
certificates:
- name: tls
  pod: {namespace: shop, name: web-0, uid: u1, serviceAccountName: web, serviceAccountUID: s1}
  userAnnotations: {example.com/profile: strict, example.com/node: '${NODE_NAME}'}
  keyType: ECDSAP384
  lifetime: 12h
  issuerCAFile: /ca.crt
  store: {volume: {path: /pods/u1/, key: tls/key.pem, certificateChain: tls/chain.pem, state: /state}}
  onRotated: {pidFile: /run/web.pid}
- name: mesh
  pod: {namespace: shop, name: web-0, uid: u1, serviceAccountName: web, serviceAccountUID: s1}
  node: {name: other, uid: n2}
  store: {volume: {path: /pods/u1, bundle: mesh.pem}}
- name: csr
  commonName: web
  access: {owner: 1000}
  store: {volume: {path: /pods/u1, bundle: csr.pem}}
",
    )
    .unwrap();
    let [tls, mesh, csr] = &list.members[..] else { panic!("{list:?}") };
    let identity = PodIdentity {
        namespace: "shop".into(),
        name: "web-0".into(),
        uid: "u1".into(),
        service_account_name: "web".into(),
        service_account_uid: "s1".into(),
        node_name: "worker-1".into(),
        node_uid: "n1".into(),
    };
    let annotations = [("example.com/node", "worker-1"), ("example.com/profile", "strict")];
    let user_annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    assert_eq!(tls.pod, Some(Pod { identity: identity.clone(), user_annotations }));
    assert_eq!((&tls.template, &tls.usages, &*tls.required_usages), (&Template::default(), &None, &[][..]));
    assert_eq!((tls.key_type, tls.lifetime), (KeyAlgorithm::EcdsaP384, Some(Duration::from_secs(43_200))));
    assert_eq!((&tls.policy, tls.accepts_extra_rights), (&Policy::for_lifetime(Duration::from_secs(43_200)), true));
    let access = FileAccess { owner: Some(1000), group: Some(1001), mode: 0o400 };
    let projection = Projection::Files { key: "tls/key.pem".into(), certificate_chain: "tls/chain.pem".into() };
    let files = VolumeFiles { path: "/pods/u1".into(), projection, access, private: "/state/u1/tls".into() };
    assert_eq!(tls.location, Location::Volume(files));
    assert_eq!(tls.files(), [Path::new("/pods/u1/tls/chain.pem"), Path::new("/pods/u1/tls/key.pem")]);

    let node = PodIdentity { node_name: "other".into(), node_uid: "n2".into(), ..identity };
    assert_eq!(mesh.pod, Some(Pod { identity: node, user_annotations: BTreeMap::new() }));
    assert_eq!((mesh.lifetime, &mesh.policy), (None, &Policy::for_lifetime(Duration::from_secs(86_400))));
    let projection = Projection::Bundle { path: "mesh.pem".into() };
    let private = "/var/lib/perennial/u1/mesh".into();
    assert_eq!(mesh.location, Location::Volume(VolumeFiles { path: "/pods/u1".into(), projection, access, private }));

    let Location::Volume(files) = &csr.location else { panic!("{csr:?}") };
    assert_eq!((&csr.pod, csr.accepts_extra_rights), (&None, false));
    assert_eq!(files.private, Path::new("/var/lib/perennial/csr"));
    assert_eq!(files.access, FileAccess { owner: Some(1000), group: None, mode: 0o600 });
}

#[test]
fn wrong_value_of_pod_is_refused_with_its_remedy() {
    let pod = |key: &str, value: &str| {
        let mut fields: Vec<_> =
            [("namespace", "a"), ("name", "a"), ("uid", "a"), ("serviceAccountName", "a"), ("serviceAccountUID", "a")]
                .into_iter()
                .map(|(field, good)| format!("{field}: {}", if field == key { value } else { good }))
                .collect();
        if !fields.iter().any(|field| field.starts_with(&format!("{key}:"))) {
            fields.push(format!("{key}: {value}"));
        }
        format!("  pod: {{{}}}", fields.join(", "))
    };
    for (lines, why) in [
        (pod("namespace", "a.b"), "4:20: certificate a: pod.namespace: the namespace `a.b` is not a DNS label"),
        (pod("name", "A"), "pod.name: the name of the pod, `A`, is not a DNS subdomain"),
        (pod("serviceAccountName", "a_b"), "pod.serviceAccountName: the name of the service account, `a_b`, is not"),
        (pod("uid", "../b"), "pod.uid: a UID consists of at most 128 letters, digits and hyphens"),
        (pod("uid", "a.b"), "pod.uid: a UID consists of at most 128 letters, digits and hyphens"),
        (pod("uid", "a_b"), "pod.uid: a UID consists of at most 128 letters, digits and hyphens"),
        (pod("uid", &"u".repeat(129)), "pod.uid: the UID of the pod has 129 bytes; it must have 1 to 128"),
        (pod("serviceAccountUID", "''"), "pod.serviceAccountUID: the UID of the service account has 0 bytes"),
        (pod("serviceAccountUID", "~"), "4:8: certificate a: pod: `serviceAccountUID` is missing; add it"),
        (pod("uid", "'${ABSENT}'"), "pod.uid: the environment variable ABSENT is not set"),
        (pod("podName", "a"), "pod.podName: unknown key; expected one of namespace, name, uid,"),
        ("  pod: web-0".into(), "4:8: certificate a: pod: expected keys and values (`key: value`), found text"),
        (
            "  node: {name: a}".into(),
            "4:9: certificate a: node: `uid` is missing; add it, for example `uid: '${NODE_UID}'`",
        ),
        ("  node: {uid: a, name: A}".into(), "node.name: the name of the node, `A`, is not a DNS subdomain"),
        ("  node: {uid: a, zone: b}".into(), "node.zone: unknown key; expected one of name, uid"),
        ("  node: ~".into(), "`node` is missing; add it, for example `node: {uid: '${NODE_UID}'}`"),
        ("  signer: example.com/a/b".into(), "4:11: certificate a: signer: the signer name `example.com/a/b` has not"),
        ("  lifetime: 30m".into(), "4:13: certificate a: lifetime: the lifetime of 1800 s is not allowed"),
        ("  lifetime: 92d".into(), "lifetime: the lifetime of 7948800 s is not allowed"),
        ("  signer: kubernetes.io/pods\n  lifetime: 25h".into(), "3600 s to 86400 s"),
        ("  userAnnotations: {profile: a}".into(), "4:20: certificate a: userAnnotations: the annotation `profile`"),
        (
            "  userAnnotations: {a.b/c: [d]}".into(),
            "4:28: certificate a: userAnnotations.a.b/c: expected text, found a",
        ),
        ("  userAnnotations: {a.b/c: d, a.b/c: e}".into(), "userAnnotations.a.b/c: given twice; remove one"),
        (
            "  annotations: {a.b/c: d}".into(),
            "4:3: certificate a: annotations: unknown key; did you mean userAnnotations?",
        ),
        (
            "  commonName: a".into(),
            "commonName: the signer chooses the names and usages of a pod's certificate; remove",
        ),
        ("  organizations: [a]".into(), "organizations: the signer chooses the names"),
        ("  dnsNames: [a]".into(), "dnsNames: the signer chooses the names"),
        ("  ipAddresses: [10.0.0.1]".into(), "ipAddresses: the signer chooses the names"),
        ("  uris: ['spiffe://a']".into(), "uris: the signer chooses the names"),
        ("  usages: [client auth]".into(), "usages: the signer chooses the names"),
        ("  acceptExtraRights: true".into(), "acceptExtraRights: the signer chooses the names"),
        ("  identity: {bootstrapKubeconfig: /b}".into(), "this certificate cannot request its own successor"),
        ("  keyType: RSA1024".into(), "keyType: expected p256"),
        (
            "  store: {bundle: {file: /b}}".into(),
            "4:10: certificate a: store: the certificate of a pod goes into a volume",
        ),
        ("  store: {linked: {path: /b}}".into(), "store: the certificate of a pod goes into a volume; use"),
        ("  store: {directory: {path: /b, prefix: c}}".into(), "store: the certificate of a pod goes into a volume"),
    ] {
        refuses(&of_pod(&lines), why);
    }
    for (lines, why) in [
        (
            "  userAnnotations: {a.b/c: d}",
            "userAnnotations: has no effect without `pod`; add `pod`, or remove this key",
        ),
        ("  node: {uid: a}", "node: has no effect without `pod`"),
    ] {
        refuses(&with(lines), why);
    }
    let text = of_pod("")
        + "- {name: b, commonName: b, signer: example.com/b, store: {bundle: {file: /b}}, identity: {certificate: a}}\n";
    refuses(&text, "API servers do not accept the certificate a, from the signer example.com/mesh, as an identity");
}

#[test]
fn wrong_value_of_volume_is_refused_with_its_remedy() {
    for (volume, why) in [
        ("bundle: b", "store.volume: `path` is missing"),
        ("path: v, bundle: b", "store.volume.path: expected an absolute path without `..`"),
        ("path: /v", "store.volume: `bundle` is missing; add it, for example `bundle: credentialbundle.pem`"),
        ("path: /v, key: k", "store.volume: `certificateChain` is missing; add it"),
        ("path: /v, certificateChain: c", "store.volume: `key` is missing; add it"),
        ("path: /v, bundle: b, key: k", "store.volume.bundle: this file has the key and the chain; remove `key` and"),
        ("path: /v, bundle: /b", "store.volume.bundle: /b: a path in a volume must be relative"),
        (
            "path: /v, bundle: ../b",
            "4:38: certificate a: store.volume.bundle: ../b: a path in a volume must not contain",
        ),
        ("path: /v, bundle: ..data/b", "must not begin with `..`"),
        ("path: /v, bundle: b//c", "must consist of names, separated by single slashes"),
        ("path: /v, key: k, certificateChain: k", "/v/k is named twice; give each file a path of its own"),
        ("path: /v, bundle: b, state: s", "store.volume.state: expected an absolute path without `..`"),
        ("path: /v, bundle: b, state: /v", "lies in the volume /v of certificate a, which is for files of"),
        ("path: /v, credentialBundlePath: b", "unknown key"),
    ] {
        let text = of_pod(&format!("  store: {{volume: {{{volume}}}}}"));
        let faults = parse(&text).expect_err(&text);
        assert!(faults.iter().any(|fault| fault.contains(why)), "{volume}\nexpected: {why}\nfound: {faults:#?}");
    }
    for (lines, why) in [
        ("  keyEncoding: sec1", "keyEncoding: does not apply to `store.volume`, whose keys are PKCS#8"),
        ("  replaceForeign: true", "replaceForeign: does not apply to `store.volume`"),
        ("  access: {certificateMode: 0444}", "access.certificateMode: does not apply to `store.volume`, all of whose"),
        ("  access: {mode: 0644}", "access.mode: expected a mode of at most 0640"),
    ] {
        refuses(&of_pod(lines), why);
    }
}

#[test]
fn volumes_that_overlap_are_refused() {
    let list = |a: &str, b: &str| members(&[("a", &format!("store: {{{a}}}")), ("b", &format!("store: {{{b}}}"))]);
    for (a, b, why) in [
        ("volume: {path: /v, bundle: x}", "volume: {path: /v, bundle: x}", "certificate a writes /v/x, too"),
        ("volume: {path: /v, bundle: x}", "volume: {path: /v, bundle: x/y}", "/v/x/y lies below /v/x, a file of"),
        ("volume: {path: /v, bundle: x}", "bundle: {file: /v/y}", "/v/y lies in the volume /v of certificate a"),
        ("volume: {path: /v, bundle: x}", "linked: {path: /v}", "/v/..data lies in the volume /v of certificate a"),
        (
            "volume: {path: /v, bundle: x}",
            "directory: {path: /v/p, prefix: y}",
            "lies in the volume /v of certificate a",
        ),
        ("volume: {path: /v, bundle: x}", "volume: {path: /v/w, bundle: y}", "/v/w/y lies in the volume /v"),
        ("volume: {path: /v, bundle: x}", "bundle: {file: /v}", "/v is a directory of certificate a"),
        (
            "volume: {path: /v, bundle: x, state: /s}",
            "volume: {path: /s, bundle: y}",
            "/s/a/a-current.pem lies in the volume /s of certificate b",
        ),
        (
            "volume: {path: /v, bundle: x, state: /s}",
            "directory: {path: /s/a, prefix: a}",
            "certificate a writes /s/a/a-current.pem, too",
        ),
        (
            "volume: {path: /v, bundle: x, state: /s}",
            "bundle: {file: /s/a/a-1.pem}",
            "names that begin with a- or a. are for the files of certificate a",
        ),
        (
            "volume: {path: /v, bundle: x}",
            "volume: {path: /v, bundle: y}}, access: {owner: 7",
            "certificate a gives the volume /v another owner; use the same `access.owner`",
        ),
    ] {
        let text = list(a, b);
        let faults = parse(&text).expect_err(&text);
        assert!(faults.iter().any(|fault| fault.contains(why)), "{a} {b}: {faults:#?}");
    }
    for (a, b) in [
        ("volume: {path: /v, bundle: x}", "volume: {path: /v, bundle: y}"),
        ("volume: {path: /v, bundle: x/a}", "volume: {path: /v, key: x/b, certificateChain: x/c}"),
        ("volume: {path: /v, bundle: x}", "bundle: {file: /w/x}"),
    ] {
        assert!(parse(&list(a, b)).is_ok(), "{a} {b}: {:#?}", parse(&list(a, b)));
    }
}

#[test]
fn volume_with_another_owner_conflicts_during_reload() {
    let member = |name: &str, more: &str| {
        let store = format!("store: {{volume: {{path: /v, bundle: {name}}}}}{more}");
        parse(&members(&[(name, &store)])).unwrap().members.remove(0)
    };
    let (a, b) = (member("a", ""), member("b", ""));
    assert!(!a.conflicts_with(&b) && a.conflicts_with(&member("b", ", access: {owner: 7}")));
}

#[test]
fn trust_bundle_in_volume_must_fit_into_it() {
    let list = |path: &str, more: &str| {
        let certificate = of_pod("  access: {owner: 7}");
        format!("{certificate}trustBundles:\n- {{name: b, path: {path}, identity: {{kubeconfig: /k}}{more}}}\n")
    };
    let read = parse(&list("/v/trust/ca.pem", ", access: {owner: 7}")).unwrap();
    assert_eq!(read.trust_bundles[0].volume, Some(("/v".into(), Some(7))));
    assert_eq!(parse(&list("/w/ca.pem", "")).unwrap().trust_bundles[0].volume, None);
    for (path, more, why) in [
        ("/v/b.pem", "", "path: /v/b.pem is a file of certificate a, too; give each file a path of its own"),
        ("/v/b.pem/ca.pem", "", "path: /v/b.pem/ca.pem does not go together with /v/b.pem: one of them"),
        ("/v/..data", "", "path: ..data: a path in a volume must not begin with `..`"),
        ("/v/ca.pem", ", access: {owner: 8}", "access: the certificates of this volume have another owner"),
        ("/v/ca.pem", ", replaceForeign: true", "replaceForeign: has no effect in a volume; remove this key"),
    ] {
        refuses(&list(path, more), why);
    }
}
