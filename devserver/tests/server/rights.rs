//! Limits of authenticated users: they get no certificate for another user, need rights for each operation, and cannot
//! evade the check of rights by an oddly encoded path.

use crate::support::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial::Template;
use perennial_dev::{Answer, ApiRequest, Decision, Method, Options, ServingApproval, User};
use perennial_pki::Chain;
use serde_json::{Value, json};

const MERGE: &str = "application/merge-patch+json";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Authenticated users without the right to approve or sign requests.
fn others() -> [Role; 4] {
    let joe = User::new("joe", ["dev"]);
    // A node's name without the group, and the group without a node's name.
    let almost = User::new("system:node:one", ["dev"]);
    [Role::Bootstrap, Role::Node("one"), Role::Other(joe), Role::Other(almost)]
}

fn usages(signer: &str) -> [&'static str; 2] {
    ["digital signature", if signer == KUBELET_SERVING { "server auth" } else { "client auth" }]
}

#[test]
fn only_administrators_approve_deny_and_sign() {
    let mut server = Server::new(manual());
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let before = server.object("a");
    let mut signed = before.clone();
    signed["status"]["certificate"] = STANDARD.encode(server.api.authority().certificate_pem()).into();
    for user in others() {
        for changed in ["Approved", "Denied", "Failed"].map(|kind| with_condition(before.clone(), kind)) {
            for path in ["a", "a/approval", "a/status"] {
                assert_eq!(server.put(&user, path, &changed).0, 403, "{path}");
                let mut patch = with_body(Method::PATCH, &format!("{COLLECTION}/{path}"), &changed);
                patch.content_type = MERGE.into();
                assert_eq!(server.send(&user, patch).0, 403, "{path}");
            }
        }
        for path in ["a", "a/approval", "a/status"] {
            assert_eq!(server.put(&user, path, &signed).0, 403, "{path}");
            let mut patch = with_body(
                Method::PATCH,
                &format!("{COLLECTION}/{path}"),
                &json!([
                    { "op": "add", "path": "/status/certificate", "value": signed["status"]["certificate"] },
                ]),
            );
            patch.content_type = "application/json-patch+json".into();
            assert_eq!(server.send(&user, patch).0, 403, "{path}");
        }
    }
    assert_eq!(server.object("a"), before);
}

#[test]
fn status_sent_with_a_new_request_is_dropped() {
    let mut server = Server::new(manual());
    let mut object = with_condition(node_csr("a", "one"), "Approved");
    object["status"]["certificate"] = STANDARD.encode(server.api.authority().certificate_pem()).into();
    assert_eq!(server.create(&Role::Bootstrap, &object).0, 201);
    let stored = server.object("a");
    assert!(condition(&stored, "Approved").is_none() && server.chain("a").is_none(), "{stored}");
}

#[test]
fn node_cannot_change_or_delete_request_of_another_node() {
    let mut server = Server::new(manual());
    assert_eq!(server.create(&Role::Node("one"), &node_csr("node-csr-one", "one")).0, 201);
    let before = server.object("node-csr-one");
    let two = Role::Node("two");
    assert_eq!(server.create(&two, &node_csr("node-csr-one", "two")).0, 409);
    assert_eq!(server.put(&two, "node-csr-one", &before).0, 403);
    assert_eq!(server.delete(&two, "node-csr-one").0, 403);
    assert_eq!(server.send(&two, ApiRequest::new(Method::DELETE, COLLECTION)).0, 403);
    // As in a cluster, the name of the object does not matter: the subject of the CSR does.
    assert_eq!(server.create(&two, &node_csr("node-csr-one-again", "two")).0, 201);
    for (signer, name) in [(KUBELET_CLIENT, "one"), (KUBELET_SERVING, "one"), (KUBELET_CLIENT, "two/../one")] {
        let template = Template::node(name).with_dns_names(["one.example"]);
        let object = csr("node-csr-two", signer, &usages(signer), &request(&template, &key()));
        assert_eq!(server.create(&two, &object).0, 403, "{signer} {name}");
    }
    assert_eq!(server.object("node-csr-one"), before);
}

/// Creates and approves a request with these organizations. Returns the issued chain. Returns an error if the server
/// refuses the request (status and body of the answer), or issues no certificate (200 and the request object).
fn issued(signer: &str, user: &Role, organizations: &[&str]) -> Result<Chain, (u16, Value)> {
    let mut server = Server::new(manual());
    let template = Template::new("system:node:one").with_organizations(organizations.iter().copied());
    let template = if signer == KUBELET_SERVING { template.with_dns_names(["one.example"]) } else { template };
    let answer = server.create(user, &csr("a", signer, &usages(signer), &request(&template, &key())));
    if answer.0 != 201 {
        return Err(answer);
    }
    server.api.decide("a", Decision::Approve, "by the test", NOW).unwrap();
    server.chain("a").ok_or_else(|| (200, server.object("a")))
}

#[test]
fn kubelet_signers_grant_only_system_nodes_and_no_signer_grants_system_masters() {
    assert!(issued(KUBELET_CLIENT, &Role::Node("one"), &["system:nodes"]).is_ok());
    for user in [Role::Node("one"), Role::Bootstrap, Role::Admin] {
        for groups in [["system:masters"].as_slice(), &["system:nodes", "system:masters"], &["dev"], &[]] {
            for signer in [KUBELET_CLIENT, KUBELET_SERVING] {
                let (_, object) = issued(signer, &user, groups).unwrap_err();
                let (_, why) = condition(&object, "Failed").unwrap();
                assert_eq!(why, "subject organization is not system:nodes", "{signer} {groups:?}");
            }
        }
        for groups in [["system:masters"].as_slice(), &["dev", "system:masters"]] {
            assert_eq!(issued(CLIENT, &user, groups).unwrap_err().0, 403, "{groups:?}");
            // This server does not sign for such signer names, even after an approval.
            for signer in ["example.com/mine", LEGACY] {
                let (code, object) = issued(signer, &user, groups).unwrap_err();
                assert!(code == 422 || object["status"]["certificate"].is_null(), "{signer}: {object}");
            }
        }
    }
}

#[test]
fn kubelet_request_for_wrong_groups_is_not_approved_automatically() {
    for (user, node, groups) in [
        (Role::Node("one"), "one", ["dev"].as_slice()),
        (Role::Bootstrap, "one", &["system:masters"]),
        (Role::Other(User::new("system:node:one", ["system:nodes", "dev"])), "one", &["dev"]),
        (Role::Admin, "one", &["dev"]),
    ] {
        let mut server = Server::new(Options { approve_serving: ServingApproval::Any, ..Options::default() });
        let template = Template::new(format!("system:node:{node}")).with_organizations(groups.iter().copied());
        for (name, signer) in [("a", KUBELET_CLIENT), ("b", KUBELET_SERVING)] {
            let template = template.clone();
            let template = if name == "b" { template.with_dns_names(["one.example"]) } else { template };
            assert_eq!(server.create(&user, &csr(name, signer, &usages(signer), &request(&template, &key()))).0, 201);
            assert!(condition(&server.object(name), "Approved").is_none(), "{signer} {groups:?}");
        }
    }
}

#[test]
fn oddly_encoded_paths_bypass_no_authorization() {
    let mut server = Server::new(manual());
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let before = server.object("a");
    let approved = with_condition(before.clone(), "Approved");
    let odd = |name: &str| {
        [
            format!("/{COLLECTION}/{name}"),
            COLLECTION.replace("/v1/", "//v1///") + "/" + name,
            format!("{COLLECTION}/./{name}"),
            format!("{COLLECTION}/x/../{name}"),
            format!("/apis/..{COLLECTION}/{name}"),
            format!("/healthz/..{COLLECTION}/{name}"),
            format!("/version/..{COLLECTION}/{name}"),
            format!("{COLLECTION}%2F{name}"),
            format!("{COLLECTION}/{}", name.replace('/', "%2F")),
            format!("{COLLECTION}/{}", name.replace('/', "%2f")),
            format!("{COLLECTION}/{}", name.replace('a', "%61")),
            format!("{COLLECTION}/{}", name.replace('a', "%2561")),
            format!("{COLLECTION}/{name}/"),
            format!("{COLLECTION}/{name}%00"),
            format!("{COLLECTION}/{name};x=y"),
            COLLECTION.replace("v1", "V1") + "/" + name,
            format!("/api{COLLECTION}/{name}"),
            format!("{COLLECTION}/{name}?watch=true&dryRun=All"),
            format!("http://localhost{COLLECTION}/{name}"),
        ]
    };
    for path in ["a", "a/approval", "a/status"].iter().flat_map(|name| odd(name)) {
        for user in others().iter().chain([&Role::Nobody]) {
            for method in [Method::PUT, Method::PATCH, Method::DELETE, Method::POST] {
                let (code, answer) = server.send(user, with_body(method.clone(), &path, &approved));
                assert!(matches!(code, 401 | 403 | 404 | 405), "{method} {path}: {code} {answer}");
            }
        }
        // Without a credential, only the health endpoints answer.
        let Answer::Response(response) = server.answer(&Role::Nobody, ApiRequest::new(Method::GET, path.clone()))
        else {
            panic!("a watch: {path}")
        };
        assert!(response.status == 401 || response.body == b"ok", "{path}");
        let joe = Role::Other(User::new("joe", ["dev"]));
        let Answer::Response(response) = server.answer(&joe, ApiRequest::new(Method::GET, path.clone())) else {
            panic!("a watch: {path}")
        };
        assert!(matches!(response.status, 403 | 404) || response.body == b"ok", "{path}: {}", response.status);
    }
    assert_eq!(server.object("a"), before);
}
