//! Approval and signing by the embedded server, and the contents of its certificates.

use std::net::IpAddr;
use std::time::Duration;

use crate::support::*;
use perennial::{Template, UnixTime};
use perennial_dev::{Approval, Authority, Decision, DecisionError, Options, Random, ServingApproval, User};
use perennial_kubernetes::addresses::{AddressType, NodeAddress};
use perennial_pki::{Chain, Expected, KeyAlgorithm, KeyPair, Usage};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

const CLIENT_USAGES: [&str; 2] = ["digital signature", "client auth"];
const SERVER_USAGES: [&str; 2] = ["digital signature", "server auth"];

fn parse(chain: &Chain) -> X509Certificate<'_> {
    X509Certificate::from_der(chain.der()[0].to_vec().leak()).unwrap().1
}

/// The seconds from [`NOW`] to notBefore and to notAfter.
fn validity(chain: &Chain) -> (i64, i64) {
    let validity = chain.certificate().validity;
    (validity.not_before().as_secs() - NOW.as_secs(), validity.not_after().as_secs() - NOW.as_secs())
}

#[test]
fn keys_of_every_kind_get_certificates_that_verify() {
    let mut server = Server::new(Options::default());
    let roots = server.api.authority().roots().unwrap();
    let keys = [
        KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap(),
        KeyPair::generate(KeyAlgorithm::EcdsaP384).unwrap(),
        KeyPair::generate(KeyAlgorithm::Ed25519).unwrap(),
        KeyPair::from_pem(include_str!("support/rsa-2048.key.pem")).unwrap(),
    ];
    for (index, key) in keys.iter().enumerate() {
        let name = format!("k{index}");
        let pem = request(&Template::node("one"), key);
        let (status, created) = server.create(&Role::Bootstrap, &csr(&name, KUBELET_CLIENT, &CLIENT_USAGES, &pem));
        assert_eq!(status, 201, "{created}");
        let chain = server.chain(&name).expect("approved and signed at once");
        let expected = Expected {
            public_key_der: key.public_key_der(),
            usages: &[Usage::ClientAuth],
            skew: Duration::ZERO,
            roots: Some(&roots),
        };
        expected.check(&chain, NOW).unwrap_or_else(|error| panic!("{}: {error}", key.algorithm()));
        assert!(Template::node("one").satisfied_by(chain.certificate()));
        assert_eq!(chain.der().len(), 1, "the leaf, no chain");
    }
}

#[test]
fn p384_key_with_sha256_signature_gets_certificate() {
    let mut server = Server::new(Options::default());
    let pem = include_str!("support/p384-signed-with-sha256.csr.pem");
    server.create(&Role::Bootstrap, &csr("a", KUBELET_CLIENT, &CLIENT_USAGES, pem));
    let chain = server.chain("a").unwrap();
    let requested = perennial_pki::read_request(pem.as_bytes()).unwrap();
    assert_eq!(chain.public_key_der(), requested.public_key_der);
}

#[test]
fn certificate_takes_nothing_from_csr_but_names_and_key() {
    let mut server = Server::new(Options::default());
    let pem = include_str!("support/asks-to-be-an-authority.csr.pem");
    server.create(&Role::Bootstrap, &csr("a", KUBELET_CLIENT, &CLIENT_USAGES, pem));
    let chain = server.chain("a").unwrap();
    let certificate = parse(&chain);

    assert!(!certificate.is_ca());
    assert!(certificate.basic_constraints().unwrap().is_some_and(|found| found.critical && !found.value.ca));
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.flags == 1, "digital signature only: {:b}", usage.value.flags);
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && !extended.code_signing && !extended.server_auth);
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    assert_eq!(certificate.extensions().len(), 4, "usages, constraints, authority's key");
}

#[test]
fn issuer_and_authority_key_identifier_match_the_ca() {
    let mut server = Server::new(Options::default());
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let chain = server.chain("a").unwrap();
    let authority = Chain::from_pem(server.api.authority().certificate_pem().as_bytes()).unwrap();
    let (leaf, root) = (parse(&chain), parse(&authority));
    assert_eq!(leaf.issuer().as_raw(), root.subject().as_raw());
    let id = |certificate: &X509Certificate<'_>, oid: &str| {
        let extension = certificate.extensions().iter().find(|extension| extension.oid.to_id_string() == oid).unwrap();
        extension.value[extension.value.len() - 20..].to_vec()
    };
    assert_eq!(id(&leaf, "2.5.29.35"), id(&root, "2.5.29.14"));
    assert!(root.is_ca() && root.verify_signature(None).is_ok());
    assert!(leaf.verify_signature(Some(root.public_key())).is_ok());
}

#[test]
fn serial_numbers_are_positive_and_unique() {
    let mut server = Server::new(Options::default());
    let pem = request(&Template::node("one"), &key());
    let mut serials: Vec<Vec<u8>> = Vec::new();
    for name in ["a", "b", "c"] {
        server.create(&Role::Bootstrap, &csr(name, KUBELET_CLIENT, &CLIENT_USAGES, &pem));
        let chain = server.chain(name).unwrap();
        serials.push(parse(&chain).raw_serial().to_vec());
    }
    assert!(serials.iter().all(|serial| serial.len() == 16 && serial[0] < 0x80));
    serials.dedup();
    assert_eq!(serials.len(), 3);
}

#[test]
fn subject_of_the_csr_is_copied_unchanged() {
    let mut server = Server::new(Options::default());
    let pem = include_str!("support/several-organizations.csr.pem");
    server.create(&Role::Bootstrap, &csr("a", CLIENT, &["client auth"], pem));
    server.approve("a");
    let chain = server.chain("a").unwrap();
    let requested = perennial_pki::read_request(pem.as_bytes()).unwrap();
    assert_eq!(parse(&chain).subject().as_raw(), requested.subject_der);
    assert!(chain.certificate().names.organizations().eq(["dev", "ops", "test"]), "{:?}", chain.certificate());
    assert!(parse(&chain).key_usage().unwrap().is_none(), "only what spec.usages says");
}

#[test]
fn alternative_names_are_copied_if_the_signer_permits_them() {
    let mut server = Server::new(Options::default());
    let pem = include_str!("support/every-kind-of-name.csr.pem");
    server.create(&Role::Bootstrap, &csr("a", CLIENT, &CLIENT_USAGES, pem));
    server.approve("a");
    let chain = server.chain("a").unwrap();
    let names = parse(&chain).subject_alternative_name().unwrap().unwrap().value.general_names.len();
    assert_eq!(names, 5);
    assert!(chain.certificate().names.dns_names().eq(["a.example"]), "{:?}", chain.certificate());
    let ips: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    assert!(chain.certificate().names.ip_addresses().eq(ips), "{:?}", chain.certificate());
}

#[test]
fn approved_serving_request_gets_certificate_for_tls_servers() {
    let mut server = Server::new(Options::default());
    let roots = server.api.authority().roots().unwrap();
    let key = key();
    let template =
        Template::node("one").with_dns_names(["one.example"]).with_ip_addresses(["10.0.0.1".parse().unwrap()]);
    let object = csr("a", KUBELET_SERVING, &SERVER_USAGES, &request(&template, &key));
    server.create(&Role::Node("one"), &object);
    assert!(server.chain("a").is_none(), "as in a cluster, nobody approves it by itself");
    server.approve("a");
    let chain = server.chain("a").unwrap();
    let expected = Expected {
        public_key_der: key.public_key_der(),
        usages: &[Usage::ServerAuth],
        skew: Duration::ZERO,
        roots: Some(&roots),
    };
    expected.check(&chain, NOW).unwrap();
    assert!(template.satisfied_by(chain.certificate()));
}

#[test]
fn signer_refusal_has_the_message_of_kubernetes() {
    let node = Template::node("one");
    let with = |file: &str| file.to_owned();
    let named = |template: &Template| request(template, &key());
    let dns = node.clone().with_dns_names(["x"]);
    let client = [
        (named(&Template::new("system:node:one")), "subject organization is not system:nodes"),
        (named(&node.clone().with_organizations(["x"])), "subject organization is not system:nodes"),
        (named(&dns), "DNS subjectAltNames are not allowed"),
        (with(include_str!("support/email.csr.pem")), "Email subjectAltNames are not allowed"),
        (named(&node.clone().with_ip_addresses(["10.0.0.1".parse().unwrap()])), "IP subjectAltNames are not allowed"),
        (with(include_str!("support/uri.csr.pem")), "URI subjectAltNames are not allowed"),
        (
            named(&Template::new("mike").with_organizations(["system:nodes"])),
            "subject common name does not begin with system:node:",
        ),
    ];
    let usages = "usages did not match [client auth digital signature key encipherment]";
    let mut cases: Vec<(&str, &[&str], String, &str)> =
        client.into_iter().map(|(pem, why)| (KUBELET_CLIENT, &CLIENT_USAGES[..], pem, why)).collect();
    cases.extend([
        (KUBELET_CLIENT, &["client auth"][..], named(&node), usages),
        (KUBELET_CLIENT, &["client auth", "digital signature", "server auth"], named(&node), usages),
        (KUBELET_SERVING, &SERVER_USAGES, named(&node), "DNS or IP subjectAltName is required"),
        (
            KUBELET_SERVING,
            &SERVER_USAGES,
            with(include_str!("support/every-kind-of-name.csr.pem")),
            "Email subjectAltNames are not allowed",
        ),
        (
            KUBELET_SERVING,
            &CLIENT_USAGES,
            named(&dns),
            "usages did not match [digital signature key encipherment server auth]",
        ),
        (CLIENT, &["digital signature"], named(&node), "missing required usage for client certificate: client auth"),
        (CLIENT, &["client auth", "server auth"], named(&node), "invalid usage for client certificate: server auth"),
    ]);

    let mut server = Server::new(Options::default());
    for (index, (signer, usages, pem, why)) in cases.iter().enumerate() {
        let name = format!("c{index}");
        let (status, created) = server.create(&Role::Bootstrap, &csr(&name, signer, usages, pem));
        assert_eq!(status, 201, "{created}");
        assert_eq!(server.object(&name)["status"], json!({}), "{why}: not approved by itself");
        server.approve(&name);
        let object = server.object(&name);
        assert_eq!(condition(&object, "Failed"), Some(("SignerValidationFailure".into(), (*why).into())), "{signer}");
        assert!(server.chain(&name).is_none());
    }
}

#[test]
fn requested_key_encipherment_is_in_the_kubelets_certificate() {
    let mut server = Server::new(Options::default());
    let usages = ["client auth", "key encipherment", "digital signature"];
    server.create(&Role::Bootstrap, &csr("a", KUBELET_CLIENT, &usages, &request(&Template::node("one"), &key())));
    let chain = server.chain("a").unwrap();
    assert_eq!(parse(&chain).key_usage().unwrap().unwrap().value.flags, 0b101);
}

#[test]
fn approved_request_for_custom_signer_gets_no_certificate_by_default() {
    let mut server = Server::new(Options::default());
    server
        .create(&Role::Bootstrap, &csr("a", "example.com/mine", &CLIENT_USAGES, &request(&Template::new("x"), &key())));
    server.approve("a");
    let object = server.object("a");
    assert!(condition(&object, "Approved").is_some() && condition(&object, "Failed").is_none());
    assert!(server.chain("a").is_none());
}

#[test]
fn kubelet_client_requests_are_approved_by_the_rules_of_kubernetes() {
    let own = "Auto approving self kubelet client certificate after SubjectAccessReview.";
    let first = "Auto approving kubelet client certificate after SubjectAccessReview.";
    let joe = Role::Other(User::new("joe", ["system:nodes"]));
    for (user, node, message) in [
        (Role::Bootstrap, "one", Some(first)),
        (Role::Node("one"), "one", Some(own)),
        (Role::Admin, "one", Some(first)),
        // A user in the group of nodes that is not the node itself.
        (joe, "one", None),
    ] {
        let mut server = Server::new(Options::default());
        server.create(&user, &node_csr("a", node));
        let approved = condition(&server.object("a"), "Approved");
        assert_eq!(approved, message.map(|message| ("AutoApproved".into(), message.into())));
    }
}

#[test]
fn no_request_is_approved_automatically_with_manual_approval() {
    let mut server = Server::new(Options { approval: Approval::Manual, ..Options::default() });
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    assert_eq!(server.object("a")["status"], json!({}));
    server.approve("a");
    assert!(server.chain("a").is_some());
}

#[test]
fn serving_approval_any_approves_requests_of_nodes_only() {
    let mut server = Server::new(Options { approve_serving: ServingApproval::Any, ..Options::default() });
    let template = Template::node("one").with_dns_names(["one"]);
    let object = |name| csr(name, KUBELET_SERVING, &SERVER_USAGES, &request(&template, &key()));
    server.create(&Role::Node("one"), &object("a"));
    server.create(&Role::Bootstrap, &object("b"));
    assert!(server.chain("a").is_some() && server.chain("b").is_none());
}

#[test]
fn serving_approval_own_approves_only_names_of_node_and_configured_names() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let own = |more: &[&str]| ServingApproval::Own(more.iter().map(|name| (*name).to_owned()).collect());
    let address = |kind, address: &str| NodeAddress { kind, address: address.into() };
    type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], ServingApproval, bool);
    let rows: [Row<'_>; 16] = [
        ("one", &["one"], &[], own(&[]), true),
        ("one", &["One."], &[], own(&[]), true),
        ("one", &["one", "one.internal"], &["10.0.0.7", "fd00::7"], own(&[]), true),
        ("one", &["two"], &[], own(&[]), false),
        ("one", &["one", "kubernetes.default.svc"], &[], own(&[]), false),
        ("one", &[], &["10.0.0.8"], own(&[]), false),
        ("one", &["web.example"], &["10.0.0.8"], own(&["Web.example.", "10.0.0.8"]), true),
        ("one", &["web.example"], &["10.0.0.9"], own(&["web.example", "10.0.0.8"]), false),
        ("one", &[], &["fd00::8"], own(&["fd00:0::8"]), true),
        ("two", &[], &["10.0.0.7"], own(&[]), false),
        ("kubernetes.default.svc", &["kubernetes.default.svc"], &[], own(&[]), false),
        ("kubernetes", &["kubernetes"], &[], own(&[]), false),
        ("web.prod.svc.cluster.local", &["web.prod.svc.cluster.local"], &[], own(&[]), false),
        ("one", &["kubernetes.default.svc"], &[], own(&["kubernetes.default.svc"]), true),
        ("one", &["kubernetes.default.svc"], &["10.96.0.1"], ServingApproval::Any, true),
        ("one", &["one"], &[], ServingApproval::Never, false),
    ];
    for (node, names, addresses, approves, approved) in rows {
        let mut server = Server::new(Options { approve_serving: approves.clone(), ..Options::default() });
        let own_addresses = [
            address(AddressType::InternalIp, "10.0.0.7"),
            address(AddressType::ExternalIp, "fd00::7"),
            address(AddressType::InternalDns, "one.internal"),
        ];
        server.api.put_node("one", &own_addresses, server.now).unwrap();
        let template = Template::node(node);
        let template =
            template.with_dns_names(names.iter().copied()).with_ip_addresses(addresses.iter().copied().map(ip));
        server.create(&Role::Node(node), &csr("a", KUBELET_SERVING, &SERVER_USAGES, &request(&template, &key())));
        let waits = server.api.requests().all(|object| server.api.waits_for_a_person(object));
        let row = format!("{node} {names:?} {addresses:?} {approves:?}");
        assert_eq!((server.chain("a").is_some(), waits), (approved, !approved), "{row}");
    }
}

#[test]
fn serving_request_is_approved_once_the_node_object_has_its_address() {
    let mut server = Server::new(Options { approve_serving: ServingApproval::Own(vec![]), ..Options::default() });
    let template = Template::node("one").with_ip_addresses(["10.0.0.7".parse::<IpAddr>().unwrap()]);
    server.create(&Role::Node("one"), &csr("a", KUBELET_SERVING, &SERVER_USAGES, &request(&template, &key())));
    assert!(server.chain("a").is_none());
    let address = NodeAddress { kind: AddressType::InternalIp, address: "10.0.0.7".into() };
    server.api.put_node("one", &[address], server.now).unwrap();
    server.api.tick(NOW);
    assert!(server.chain("a").is_some());
}

#[test]
fn denied_request_cannot_be_approved() {
    let mut server = Server::new(Options { approval: Approval::Manual, ..Options::default() });
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    assert_eq!(server.api.decide("b", Decision::Deny, "", NOW), Err(DecisionError::NotFound));
    server.api.decide("a", Decision::Deny, "no", NOW).unwrap();
    server.api.decide("a", Decision::Deny, "no", NOW).unwrap();
    assert_eq!(server.api.decide("a", Decision::Approve, "yes", NOW), Err(DecisionError::Decided));
    assert!(server.chain("a").is_none());
    assert_eq!(condition(&server.object("a"), "Denied").unwrap().1, "no");
}

#[test]
fn lifetime_is_as_requested_up_to_signing_duration() {
    let options = Options { signing_duration: Duration::from_secs(3600), ..Options::default() };
    let strict = Options { allow_short: false, ..options.clone() };
    let cluster = Options { backdate: Some(Duration::from_secs(300)), ..options.clone() };
    let day = Options { signing_duration: DAY, ..options.clone() };
    for (options, requested, expected) in [
        (&options, None, (-180, 3600)),
        (&options, Some(1800), (-90, 1800)),
        (&options, Some(10_800), (-180, 3600)),
        (&options, Some(20), (-1, 20)),
        (&options, Some(1), (-1, 1)),
        (&strict, Some(600), (-30, 600)),
        (&cluster, Some(1800), (-300, 1800)),
        // Lifetimes of eight hours or more are shortened by the backdating.
        (&day, None, (-300, 86_400 - 300)),
    ] {
        let mut server = Server::new(options.clone());
        let mut object = node_csr("a", "one");
        object["spec"]["expirationSeconds"] = requested.map_or(Value::Null, Into::into);
        server.create(&Role::Bootstrap, &object);
        assert_eq!(validity(&server.chain("a").unwrap()), expected, "{requested:?}");
    }
}

#[test]
fn no_certificate_outlives_the_authority() {
    let mut random = Random::from_seed([3; 32]);
    let authority = Authority::generate(&mut random, NOW, Duration::from_secs(3600)).unwrap();
    let mut server = Server::with_authority(Options::default(), authority, random);
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    assert_eq!(validity(&server.chain("a").unwrap()).1, 3600);

    server.now = after(3601);
    server.create(&Role::Bootstrap, &node_csr("b", "one"));
    let object = server.object("b");
    assert!(condition(&object, "Approved").is_some() && condition(&object, "Failed").is_none());
    assert!(server.chain("b").is_none(), "an expired authority signs nothing, and the request waits");
}

#[test]
fn certificate_is_issued_after_signing_delay() {
    let mut server = Server::new(Options { signing_delay: Duration::from_secs(5), ..Options::default() });
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    assert!(condition(&server.object("a"), "Approved").is_some() && server.chain("a").is_none());
    assert_eq!(server.api.deadline(), after(5));
    server.api.tick(after(4));
    assert!(server.chain("a").is_none());
    server.api.tick(after(5));
    assert!(server.chain("a").is_some());
}

#[test]
fn authority_loaded_from_kubeadm_like_files_issues_valid_certificate() {
    let bundle = include_str!("support/kubeadm-like-ca.pem");
    let authority = Authority::from_pem(bundle).unwrap();
    assert_eq!(Authority::from_pem(&authority.to_pem()).unwrap().certificate_pem(), authority.certificate_pem());
    let roots = authority.roots().unwrap();
    let mut server = Server::with_authority(Options::default(), authority, Random::from_seed([5; 32]));
    let key = key();
    let pem = request(&Template::node("one"), &key);
    server.create(&Role::Bootstrap, &csr("a", KUBELET_CLIENT, &CLIENT_USAGES, &pem));
    let expected = Expected {
        public_key_der: key.public_key_der(),
        usages: &[Usage::ClientAuth],
        skew: Duration::ZERO,
        roots: Some(&roots),
    };
    expected.check(&server.chain("a").unwrap(), NOW).unwrap();
}

#[test]
fn leaf_certificate_is_refused_as_authority() {
    let mut random = Random::from_seed([6; 32]);
    let authority = Authority::generate(&mut random, NOW, DAY).unwrap();
    let leaf = authority.client_credential("x", &[], &mut random, NOW, DAY).unwrap();
    let error = Authority::from_pem(&leaf.to_pem()).unwrap_err();
    assert!(error.to_string().contains("may not sign"), "{error}");
    let mixed = format!("{}{}", authority.certificate_pem(), leaf.key().to_pem().as_str());
    assert!(Authority::from_pem(&mixed).is_err());
    assert!(!format!("{authority:?}").contains("PRIVATE"));
}

#[test]
fn times_in_objects_and_certificates_are_whole_seconds() {
    let mut server = Server::new(Options::default());
    server.now = UnixTime::from_millis(NOW.as_millis() + 999);
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    assert_eq!(server.object("a")["metadata"]["creationTimestamp"], "2027-01-15T08:00:00Z");
    assert_eq!(server.chain("a").unwrap().certificate().validity.not_after().as_millis() % 1000, 0);
}
