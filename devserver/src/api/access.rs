//! Authorization by the roles that a cluster gives to administrators, nodes and bootstrap tokens. There are no other
//! roles.

use perennial_pki::{RequestFacts, read_request};
use serde::Deserialize;

use super::message::Response;
use super::resource::{Key, Resource};
use super::user::{AUTHENTICATED, BOOTSTRAPPERS, MASTERS, NODES, User};
use super::{signer, status};
use perennial_kubernetes::objects::CsrSpec;

/// The operation that a user needs a right for: a verb on a resource, such as `create` on `certificatesigningrequests`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Attributes<'a> {
    pub(super) verb: &'a str,
    pub(super) group: &'a str,
    pub(super) resource: &'a str,
    pub(super) subresource: &'a str,
    /// The namespace; empty for a resource without namespaces, and for objects of all namespaces.
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

/// True if the user is in the group `system:masters`, or one of the user's roles (`system:node-bootstrapper`,
/// `system:node`, `system:basic-user`) allows the operation.
pub(super) fn allowed(user: &User, wanted: &Attributes<'_>) -> bool {
    // As in a cluster, this group bypasses authorization.
    if user.is_in(MASTERS) {
        return true;
    }
    match (wanted.group, wanted.resource, wanted.subresource) {
        (status::GROUP, "certificatesigningrequests", "") => {
            let is_request_verb = matches!(wanted.verb, "create" | "get" | "list" | "watch");
            is_request_verb && (user.is_in(BOOTSTRAPPERS) || user.is_in(NODES))
        }
        // The node restriction compares the request with the pod. What a node may read: `Api::node_may_read`.
        (status::GROUP, "podcertificaterequests", "") => wanted.verb == "create" && user.is_in(NODES),
        // Any node may read the bundles that its pods mount (`NodeRules` in `bootstrappolicy`).
        (status::GROUP, "clustertrustbundles", "") => {
            matches!(wanted.verb, "get" | "list" | "watch") && user.is_in(NODES)
        }
        // Subresources of automatic approval: `nodeclient` for any node's first certificate, `selfnodeclient` for a
        // node's own next one.
        (status::GROUP, "certificatesigningrequests", "nodeclient") => {
            wanted.verb == "create" && user.is_in(BOOTSTRAPPERS)
        }
        (status::GROUP, "certificatesigningrequests", "selfnodeclient") => wanted.verb == "create" && user.is_in(NODES),
        ("authentication.k8s.io", "selfsubjectreviews", "")
        | ("authorization.k8s.io", "selfsubjectaccessreviews", "") => {
            wanted.verb == "create" && user.is_in(AUTHENTICATED)
        }
        _ => false,
    }
}

/// Refuses an operation that no role of the user allows, with 403 and the message of a real API server.
pub(super) fn authorize(user: &User, wanted: &Attributes<'_>) -> Result<(), Response> {
    if allowed(user, wanted) {
        return Ok(());
    }
    let Attributes { verb, group, resource, subresource, namespace, name } = wanted;
    let scope = match *namespace {
        "" => "at the cluster scope".into(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let slash = if subresource.is_empty() { "" } else { "/" };
    let why = format!(
        "User {:?} cannot {verb} resource \"{resource}{slash}{subresource}\" in API group {group:?} {scope}",
        user.username
    );
    if let Some(resource) = Resource::named(group, resource) {
        return Err(status::forbidden(&Key::new(resource, "", name), why));
    }
    Err(status::forbidden_path(format!("{resource}.{group} is forbidden: {why}")))
}

/// Authorizes a request for a path that is no resource, or refuses the request with 403. Every authenticated user may
/// GET discovery, OpenAPI documents and `/version`; all else is for administrators.
pub(super) fn authorize_path(user: &User, verb: &str, path: &str) -> Result<(), Response> {
    let discovery = ["/api", "/apis", "/openapi"]
        .iter()
        .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    if user.is_in(MASTERS) || verb == "get" && (discovery || path == "/version") {
        return Ok(());
    }
    Err(status::forbidden_path(format!("forbidden: User {:?} cannot {verb} path {path:?}", user.username)))
}

/// Refuses approval and signing to all users but administrators, with 403: no other role has rights on signers.
pub(super) fn authorize_signer(user: &User, verb: &str, key: &Key, signer_name: &str) -> Result<(), Response> {
    if user.is_in(MASTERS) {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer_name:?}");
    Err(status::forbidden(key, why))
}

/// The answer (403) to a request with impersonation headers, even from an administrator. This server does not support
/// impersonation: if it ignored the headers, it would answer for the wrong user.
pub(super) fn no_impersonation(user: &User) -> Response {
    status::forbidden_path(format!(
        "forbidden: User {:?} cannot impersonate: this server does not support impersonation; leave out --as, \
         --as-group and --as-uid",
        user.username
    ))
}

/// Admission plugin NodeRestriction: refuses a node's request for a kubelet certificate of another node.
pub(super) fn restrict_node(user: &User, key: &Key, spec: &CsrSpec) -> Result<(), Response> {
    let Some(node) = user.node() else { return Ok(()) };
    if !matches!(spec.signer_name.as_str(), signer::KUBELET_CLIENT | signer::KUBELET_SERVING) {
        return Ok(());
    }
    let request =
        read_request(&spec.request).map_err(|error| status::forbidden(key, format!("unable to parse csr: {error}")))?;
    if request.common_name.strip_prefix("system:node:") == Some(node) {
        return Ok(());
    }
    Err(status::forbidden(key, format!("can only create a node CSR with CN=system:node:{node}")))
}

/// Admission plugin CertificateSubjectRestriction: refuses a request for the group `system:masters` to the signer
/// `kubernetes.io/kube-apiserver-client`.
pub(super) fn restrict_subject(request: &RequestFacts, key: &Key, spec: &CsrSpec) -> Result<(), Response> {
    if spec.signer_name != signer::CLIENT || !request.organizations.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    let why = format!("use of {} signer with {MASTERS} group is not allowed", signer::CLIENT);
    Err(status::forbidden(key, why))
}
