//! The signers of pod certificates: lifetimes, hints, names, denials, delays, CAs.

use std::time::Duration;

use crate::support::pod::*;
use crate::support::*;
use perennial::UnixTime;
use perennial_dev::{Authority, Options, PodDecision, PodSigner, Random, RefreshHint};
use perennial_kubernetes::objects::{PodCertificateRequest, PodCertificateStatus};
use perennial_pki::{Chain, KeyAlgorithm, KeyPair, Usage};
use serde_json::Value;

const HOUR: u64 = 3600;

fn status(server: &mut Server, name: &str) -> PodCertificateStatus {
    let (code, object) = server.get(&Role::Admin, &format!("{REQUESTS}/{name}"));
    assert_eq!(code, 200, "{object}");
    serde_json::from_value::<PodCertificateRequest>(object).unwrap().status
}

/// The status that a signer with this behaviour gives to a request, which `change` may change.
fn decided(behaviour: PodSigner, change: impl Fn(&mut Value)) -> PodCertificateStatus {
    let (mut server, pod) = unsigned();
    server.api.set_pod_signer(SIGNER, behaviour, NOW);
    let mut object = pod_request(&pod, "a");
    change(&mut object);
    assert_eq!(create(&mut server, &Role::Node("one"), &object).0, 201);
    status(&mut server, "a")
}

fn time(text: Option<&String>) -> UnixTime {
    text.unwrap().parse().unwrap()
}

#[test]
fn signer_issues_what_a_cluster_allows() {
    for (lifetime, most) in [(30 * 24 * HOUR, 24 * HOUR), (2 * HOUR, 2 * HOUR), (HOUR, HOUR)] {
        let behaviour = PodSigner { lifetime: Duration::from_secs(lifetime), ..PodSigner::default() };
        let status = decided(behaviour, |_| {});
        let chain = Chain::from_issued(status.certificate_chain.as_bytes()).unwrap();
        let validity = chain.certificate().validity;
        let (begin, length) =
            (time(status.begin_refresh_at.as_ref()), validity.not_after().since(validity.not_before()));
        assert_eq!(time(status.not_before.as_ref()), validity.not_before());
        assert_eq!(time(status.not_after.as_ref()), validity.not_after());
        assert!(NOW.since(validity.not_before()) < Duration::from_secs(300));
        assert!(length <= Duration::from_secs(most) && length >= Duration::from_secs(HOUR), "{length:?}");
        assert_eq!(begin, validity.not_before().after(length * 2 / 3));
        assert_eq!(chain.uris().collect::<Vec<_>>(), ["spiffe://cluster.local/ns/shop/sa/seller"]);
        assert_eq!(chain.certificate().common_name(), "");
        assert!(chain.is_for(Usage::ClientAuth) && chain.is_for(Usage::ServerAuth));
        let [condition] = status.conditions.as_slice() else { panic!("{status:?}") };
        assert_eq!((condition.type_.as_str(), &condition.last_update_time), ("Issued", &None));
    }
}

#[test]
fn what_the_signer_writes_is_accepted_from_a_client_too() {
    let (mut server, pod) = unsigned();
    server.api.set_pod_signer(SIGNER, PodSigner::default(), NOW);
    let key = key();
    let mut object = pod_request(&pod, "a");
    object["spec"]["stubPKCS10Request"] = base64(&stub(&key)).into();
    create(&mut server, &Role::Node("one"), &object);
    let issued = serde_json::to_value(status(&mut server, "a")).unwrap();
    object["metadata"]["name"] = "b".into();
    object["spec"]["signerName"] = "example.com/other".into();
    let (_, mut copy) = create(&mut server, &Role::Node("one"), &object);
    copy["status"] = issued;
    let target = format!("{REQUESTS}/b/status");
    let (code, answer) = server.send(&Role::Admin, with_body(perennial_dev::Method::PUT, &target, &copy));
    assert_eq!(code, 200, "{answer}");
}

#[test]
fn names_are_filled_in_from_the_pod() {
    let behaviour = PodSigner {
        common_name: "{serviceAccount}".into(),
        dns_names: vec!["{pod}.{namespace}.svc".into(), "localhost".into()],
        uris: vec!["spiffe://example.org/{node}/{pod}".into()],
        ..PodSigner::default()
    };
    let status = decided(behaviour, |_| {});
    let chain = Chain::from_issued(status.certificate_chain.as_bytes()).unwrap();
    assert_eq!(chain.certificate().common_name(), "seller");
    assert!(chain.certificate().names.dns_names().eq(["localhost", "web.shop.svc"]));
    assert_eq!(chain.uris().collect::<Vec<_>>(), ["spiffe://example.org/one/web"]);
}

#[test]
fn refresh_hint_may_lie_or_be_absent() {
    let begin = |refresh| {
        let status = decided(PodSigner { refresh, ..PodSigner::default() }, |_| {});
        (time(status.not_before.as_ref()), status.begin_refresh_at.map(|text| text.parse::<UnixTime>().unwrap()))
    };
    let minute = Duration::from_secs(60);
    let (from, at) = begin(RefreshHint::After(minute));
    assert_eq!(at, Some(from.after(minute)));
    let (from, at) = begin(RefreshHint::After(2 * DAY));
    assert_eq!(at, Some(from.after(2 * DAY)));
    let (from, at) = begin(RefreshHint::Before(minute));
    assert_eq!(at, Some(from.before(minute)));
    assert_eq!(begin(RefreshHint::Absent).1, None);
}

#[test]
fn refused_requests_have_reason_and_message() {
    let p384 = |object: &mut Value| {
        let key = KeyPair::generate(KeyAlgorithm::EcdsaP384).unwrap();
        object["spec"]["stubPKCS10Request"] = base64(&stub(&key)).into();
    };
    let only =
        |accepted_keys: &[KeyAlgorithm]| PodSigner { accepted_keys: accepted_keys.to_vec(), ..PodSigner::default() };
    let by = |decision| PodSigner { decision, ..PodSigner::default() };
    let rows = [
        (
            decided(only(&[KeyAlgorithm::Ed25519]), p384),
            ("Denied", "UnsupportedKeyType", "key type ECDSAP384 is not supported; use ED25519"),
        ),
        (
            decided(only(&[KeyAlgorithm::EcdsaP256, KeyAlgorithm::Ed25519]), p384),
            ("Denied", "UnsupportedKeyType", "key type ECDSAP384 is not supported; use ECDSAP256"),
        ),
        (decided(only(&[]), p384), ("Denied", "UnsupportedKeyType", "key type ECDSAP384 is not supported")),
        (decided(by(PodDecision::Deny("NoGrant".into(), "not you".into())), p384), ("Denied", "NoGrant", "not you")),
        (decided(by(PodDecision::Fail("Broken".into(), "no CA".into())), p384), ("Failed", "Broken", "no CA")),
    ];
    for (status, expected) in rows {
        let [condition] = status.conditions.as_slice() else { panic!("{status:?}") };
        assert_eq!((&*condition.type_, &*condition.reason, &*condition.message), expected);
        assert_eq!(PodCertificateStatus { conditions: vec![], ..status }, PodCertificateStatus::default());
    }
}

#[test]
fn signer_decides_after_its_delay() {
    let (mut server, pod) = unsigned();
    let behaviour = PodSigner { delay: Duration::from_secs(30), ..PodSigner::default() };
    server.api.set_pod_signer(SIGNER, behaviour, NOW);
    create(&mut server, &Role::Node("one"), &pod_request(&pod, "a"));
    advance(&mut server, 29);
    assert_eq!(status(&mut server, "a").conditions, []);
    advance(&mut server, 1);
    assert_eq!(status(&mut server, "a").conditions[0].type_, "Issued");
}

#[test]
fn pending_request_is_decided_by_the_new_behaviour() {
    let (mut server, pod) = unsigned();
    server.api.set_pod_signer(SIGNER, PodSigner { decision: PodDecision::Ignore, ..PodSigner::default() }, NOW);
    create(&mut server, &Role::Node("one"), &pod_request(&pod, "a"));
    advance(&mut server, 60);
    assert_eq!(status(&mut server, "a").conditions, []);
    server.api.set_pod_signer(SIGNER, PodSigner::default(), server.now);
    assert_eq!(status(&mut server, "a").conditions[0].type_, "Issued");
}

#[test]
fn signing_duration_limits_certificates_of_pods_to_one_hour_at_least() {
    for (signing_duration, hours) in [(48 * HOUR, 24), (2 * HOUR, 2), (60, 1)] {
        let signing_duration = Duration::from_secs(signing_duration);
        let mut server = Server::new(Options { other_signers: true, signing_duration, ..Options::default() });
        let pod = server.api.put_pod("shop", "web", "seller", "one", NOW).unwrap();
        create(&mut server, &Role::Node("one"), &pod_request(&pod, "a"));
        let status = status(&mut server, "a");
        let length = time(status.not_after.as_ref()).since(time(status.not_before.as_ref()));
        let most = Duration::from_secs(hours * HOUR);
        assert!(length <= most && length > most - Duration::from_secs(300), "{signing_duration:?} {length:?}");
    }
}

#[test]
fn signer_names_outside_kubernetes_have_a_signer_with_other_signers() {
    for (other_signers, signer, issues) in
        [(false, SIGNER, false), (true, SIGNER, true), (true, "kubernetes.io/kube-apiserver-client-pod", false)]
    {
        let mut server = Server::new(Options { other_signers, ..Options::default() });
        let pod = server.api.put_pod("shop", "web", "seller", "one", NOW).unwrap();
        let mut object = pod_request(&pod, "a");
        object["spec"]["signerName"] = signer.into();
        create(&mut server, &Role::Node("one"), &object);
        assert_eq!(!status(&mut server, "a").conditions.is_empty(), issues, "{signer} {other_signers}");
    }
}

#[test]
fn rotated_signer_publishes_old_and_new_ca() {
    let (mut server, pod) = unsigned();
    let mut random = Random::from_seed([3; 32]);
    let cas: Vec<Authority> = (0..2).map(|_| Authority::generate(&mut random, NOW, YEAR).unwrap()).collect();
    let pems: Vec<String> = cas.iter().map(|ca| ca.certificate_pem().to_owned()).collect();
    server.api.set_pod_signer(SIGNER, PodSigner::default(), NOW);
    for (index, ca) in cas.into_iter().enumerate() {
        server.api.rotate_pod_signer(SIGNER, ca, NOW).unwrap();
        let bundle = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles/example.com:mesh:roots";
        let (_, bundle) = server.get(&Role::Node("one"), bundle);
        assert_eq!(bundle["spec"]["trustBundle"], pems[..=index].concat());
        let name = format!("a{index}");
        create(&mut server, &Role::Node("one"), &pod_request(&pod, &name));
        let chain = Chain::from_issued(status(&mut server, &name).certificate_chain.as_bytes()).unwrap();
        let ca = Chain::from_pem(pems[index].as_bytes()).unwrap();
        assert_eq!(chain.issuer(), ca.issuer());
    }
    let invalid = Authority::generate(&mut random, NOW, YEAR).unwrap();
    assert!(server.api.rotate_pod_signer("mesh", invalid, NOW).is_err());
}
