//! The cases of sarapprove_test.go: automatic approval of kubelets' client certificates.

use perennial::Template;
use perennial_dev::{Method, Options, User};
use perennial_kubernetes::objects::CertificateSigningRequest;

use super::{Row, different, same};
use perennial_tests::simulation::{KUBELET_CLIENT, KUBELET_SERVING, Server, bootstrapper, csr, json, node_user};

const SOURCE: &str = "sarapprove_test.go";
const USAGES: &[&str] = &["key encipherment", "digital signature", "client auth"];
/// The message of an approval by upstream's recognizer selfnodeclient. [`NODE`] is that of an approval by the
/// recognizer nodeclient. A row checks the message, to know which recognizer approved.
const SELF: &str = "Auto approving self kubelet client certificate after SubjectAccessReview.";
const NODE: &str = "Auto approving kubelet client certificate after SubjectAccessReview.";
const NOT_APPROVED: &str = "not approved";
const INVALID: &str = "refused when it is created";
const NEVER_SEEN: &str = "so does a cluster's API, before any approver sees it";

pub(crate) const ROWS: &[Row] = &[
    different(SOURCE, "TestHasKubeletUsages/nil", INVALID, NEVER_SEEN, || {
        let mut object = json(&good());
        object["spec"].as_object_mut().unwrap().remove("usages");
        assert_eq!(created(object), 422);
    }),
    different(SOURCE, "TestHasKubeletUsages/none", INVALID, NEVER_SEEN, || {
        let mut object = json(&good());
        object["spec"]["usages"] = serde_json::json!([]);
        assert_eq!(created(object), 422);
    }),
    same(SOURCE, "TestHasKubeletUsages/key encipherment, digital signature", NOT_APPROVED, || {
        not_with(&["key encipherment", "digital signature"]);
    }),
    same(SOURCE, "TestHasKubeletUsages/key encipherment, digital signature, server auth", NOT_APPROVED, || {
        not_with(&["key encipherment", "digital signature", "server auth"]);
    }),
    same(SOURCE, "TestHasKubeletUsages/key encipherment, digital signature, client auth", "approved", || {
        assert_eq!(approval(&bootstrapper(), &good()).as_deref(), Some(NODE));
    }),
    same(SOURCE, "TestHandle/recognized:false,allowed: false,err: false", NOT_APPROVED, || {
        assert_eq!(approval(&joe(), &csr("a", KUBELET_CLIENT, USAGES, &Template::new("test-cert"))), None);
    }),
    same(SOURCE, "TestHandle/recognized:false,allowed: true,err: false", NOT_APPROVED, || {
        assert_eq!(approval(&bootstrapper(), &csr("a", KUBELET_CLIENT, USAGES, &Template::new("test-cert"))), None);
    }),
    same(SOURCE, "TestHandle/recognized:true,allowed: false,err: true", NOT_APPROVED, || {
        assert_eq!(approval(&joe(), &good()), None);
    }),
    same(
        SOURCE,
        "TestHandle/recognized:true,allowed: true,err: false",
        "condition Approved, reason AutoApproved",
        || {
            let mut server = Server::new(Options::default());
            assert_eq!(server.create(&bootstrapper(), &good()), 201);
            let [condition] = &server.object("a").unwrap().status.conditions[..] else { panic!("one condition") };
            assert_eq!((condition.type_.as_str(), condition.reason.as_str()), ("Approved", "AutoApproved"));
        },
    ),
    same(SOURCE, "TestRecognizers/good (nodeclient)", "approved", || {
        assert_eq!(approval(&bootstrapper(), &good()).as_deref(), Some(NODE));
    }),
    same(SOURCE, "TestRecognizers/good (selfnodeclient)", "approved", || {
        assert_eq!(approval(&node_user("foo"), &good()).as_deref(), Some(SELF));
    }),
    same(SOURCE, "TestRecognizers/cn mike", NOT_APPROVED, || {
        recognized_by_nobody(&csr(
            "a",
            KUBELET_CLIENT,
            USAGES,
            &Template::new("mike").with_organizations(["system:nodes"]),
        ));
    }),
    same(SOURCE, "TestRecognizers/no orgs", NOT_APPROVED, || {
        recognized_by_nobody(&csr("a", KUBELET_CLIENT, USAGES, &Template::new("system:node:foo")));
    }),
    same(SOURCE, "TestRecognizers/org system:master", NOT_APPROVED, || {
        let template = Template::new("system:node:foo").with_organizations(["system:master"]);
        recognized_by_nobody(&csr("a", KUBELET_CLIENT, USAGES, &template));
    }),
    same(SOURCE, "TestRecognizers/server auth too", NOT_APPROVED, || {
        let usages = ["key encipherment", "digital signature", "client auth", "server auth"];
        recognized_by_nobody(&csr("a", KUBELET_CLIENT, &usages, &Template::node("foo")));
    }),
    same(SOURCE, "TestRecognizers/signer example.com", NOT_APPROVED, || {
        recognized_by_nobody(&csr("a", "example.com/kube-apiserver-client-kubelet", USAGES, &Template::node("foo")));
    }),
    same(SOURCE, "TestRecognizers/signer kubelet-serving", NOT_APPROVED, || {
        recognized_by_nobody(&csr("a", KUBELET_SERVING, USAGES, &Template::node("foo")));
    }),
    same(
        SOURCE,
        "TestRecognizers/requestor joe (nodeclient)",
        "recognized: approved if the requestor may request for others",
        || {
            assert_eq!(approval(&bootstrapper(), &good()).as_deref(), Some(NODE));
        },
    ),
    same(
        SOURCE,
        "TestRecognizers/requestor joe (selfnodeclient)",
        "not a request of the requestor for itself: not approved",
        || {
            assert_eq!(approval(&joe(), &good()), None);
        },
    ),
    same(
        SOURCE,
        "TestRecognizers/cn of another node (nodeclient)",
        "recognized: approved if the requestor may request for others",
        || {
            let other = csr("a", KUBELET_CLIENT, USAGES, &Template::node("bar"));
            assert_eq!(approval(&bootstrapper(), &other).as_deref(), Some(NODE));
        },
    ),
    different(
        SOURCE,
        "TestRecognizers/cn of another node (selfnodeclient)",
        "refused when a node creates it; not approved if another user of the nodes' group does",
        "so does a cluster's NodeRestriction, before any approver sees it",
        || {
            let other = csr("a", KUBELET_CLIENT, USAGES, &Template::node("bar"));
            assert_eq!(Server::new(Options::default()).create(&node_user("foo"), &other), 403);
            assert_eq!(approval(&joe(), &other), None);
            assert_eq!(approval(&node_user("bar"), &other).as_deref(), Some(SELF), "a request by the node itself");
        },
    ),
];

fn good() -> CertificateSigningRequest {
    csr("a", KUBELET_CLIENT, USAGES, &Template::node("foo"))
}

/// A user in the group `system:nodes` whose name is not that of a node.
fn joe() -> User {
    User::new("joe", ["system:nodes"])
}

/// Creates the object as `user`. Returns the approver's message if the object is approved at once, else `None`.
fn approval(user: &User, object: &CertificateSigningRequest) -> Option<String> {
    let mut server = Server::new(Options::default());
    assert_eq!(server.create(user, object), 201, "{} may create it", user.username);
    let conditions = server.object("a").unwrap().status.conditions;
    conditions.into_iter().find(|condition| condition.type_ == "Approved").map(|condition| condition.message)
}

fn created(object: serde_json::Value) -> u16 {
    Server::new(Options::default()).send(&bootstrapper(), Method::POST, "", object)
}

fn not_with(usages: &[&str]) {
    assert_eq!(approval(&bootstrapper(), &csr("a", KUBELET_CLIENT, usages, &Template::node("foo"))), None);
}

/// Checks that the request object is not approved, neither if a bootstrap user creates it, who may request for any
/// node, nor if the node itself does.
fn recognized_by_nobody(object: &CertificateSigningRequest) {
    let own = perennial_pki::read_request(&object.spec.request).unwrap().common_name;
    for user in [bootstrapper(), User::new(own, ["system:nodes"])] {
        assert_eq!(approval(&user, object), None, "{}", user.username);
    }
}
