//! Signing by the embedded server, and the contents of its certificates.

use std::net::IpAddr;
use std::time::Duration;

use crate::support::*;
use perennial::{Template, UnixTime};
use perennial_dev::{Authority, Options, Random};
use perennial_pki::{Chain, Expected, KeyAlgorithm, KeyPair, Usage};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

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
