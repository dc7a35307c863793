//! Approval by the embedded server: which requests it approves by itself, and the decisions of a person.

use std::net::IpAddr;

use crate::support::*;
use perennial::Template;
use perennial_dev::{Decision, DecisionError, Options, ServingApproval, User};
use perennial_kubernetes::addresses::{AddressType, NodeAddress};
use serde_json::json;

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
    let mut server = Server::new(manual());
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
    let mut server = Server::new(manual());
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    assert_eq!(server.api.decide("b", Decision::Deny, "", NOW), Err(DecisionError::NotFound));
    server.api.decide("a", Decision::Deny, "no", NOW).unwrap();
    server.api.decide("a", Decision::Deny, "no", NOW).unwrap();
    assert_eq!(server.api.decide("a", Decision::Approve, "yes", NOW), Err(DecisionError::Decided));
    assert!(server.chain("a").is_none());
    assert_eq!(condition(&server.object("a"), "Denied").unwrap().1, "no");
}
