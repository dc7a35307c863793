//! Discovery documents, which `kubectl` requests before anything else.

use serde_json::{Value, json};

use super::fields::SCHEMA;
use super::message::{Response, to_json};
use super::status;

/// One served resource.
struct Resource {
    group: &'static str,
    name: &'static str,
    singular: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    verbs: &'static [&'static str],
    /// Names of the subresources, with their verbs.
    subresources: &'static [(&'static str, &'static [&'static str])],
}

const RESOURCES: [Resource; 3] = [
    Resource {
        group: status::GROUP,
        name: status::RESOURCE,
        singular: "certificatesigningrequest",
        kind: status::KIND,
        short: &["csr"],
        verbs: &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        subresources: &[("approval", &["get", "patch", "update"]), ("status", &["get", "patch", "update"])],
    },
    review("authentication.k8s.io", "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview"),
    review("authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectaccessreview", "SelfSubjectAccessReview"),
];

const fn review(group: &'static str, name: &'static str, singular: &'static str, kind: &'static str) -> Resource {
    Resource { group, name, singular, kind, short: &[], verbs: &["create"], subresources: &[] }
}

/// Minor version of Kubernetes that introduced `certificates.k8s.io/v1`.
pub(super) const V1_SINCE: u32 = 19;

/// The document at `path`; `None` if there is none.
pub(super) fn answer(path: &[&str], accept: &str, minor: u32) -> Option<Response> {
    let document = match *path {
        ["version"] => version(minor),
        ["api"] if wants_aggregated(accept) => return Some(aggregated(&[])),
        // Servers that old have no aggregated discovery: they answer with the group list below.
        ["apis"] if wants_aggregated(accept) && minor >= V1_SINCE => return Some(aggregated(&RESOURCES)),
        ["api"] => json!({ "kind": "APIVersions", "versions": [], "serverAddressByClientCIDRs": [] }),
        ["apis"] => {
            let groups: Vec<Value> = RESOURCES.iter().map(|resource| group(resource, minor)).collect();
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
        }
        ["apis", name] => {
            let mut found = group(RESOURCES.iter().find(|resource| resource.group == name)?, minor);
            found["kind"] = "APIGroup".into();
            found["apiVersion"] = "v1".into();
            found
        }
        ["apis", name, named] => {
            let resource = RESOURCES.iter().find(|resource| resource.group == name)?;
            (named == version_of(resource, minor)).then(|| resources(resource, named))?
        }
        ["openapi", "v3"] => openapi_index(),
        ["openapi", "v3", "apis", status::GROUP, "v1"] => SCHEMA.clone(),
        _ => return None,
    };
    Some(Response::json(200, &document))
}

fn version(minor: u32) -> Value {
    json!({
        "major": "1",
        "minor": minor.to_string(),
        "gitVersion": format!("v1.{minor}.0+perennial.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// The API version of the resource's group in Kubernetes 1.`minor`.
fn version_of(resource: &Resource, minor: u32) -> &'static str {
    if resource.group == status::GROUP && minor < V1_SINCE { "v1beta1" } else { "v1" }
}

fn group(resource: &Resource, minor: u32) -> Value {
    let (name, version) = (resource.group, version_of(resource, minor));
    let version = json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    json!({ "name": name, "versions": [version], "preferredVersion": version })
}

fn resources(resource: &Resource, version: &str) -> Value {
    let mut list = vec![json!({
        "name": resource.name,
        "singularName": resource.singular,
        "namespaced": false,
        "kind": resource.kind,
        "verbs": resource.verbs,
        "shortNames": resource.short,
    })];
    list.extend(resource.subresources.iter().map(|(subresource, verbs)| {
        json!({
            "name": format!("{}/{subresource}", resource.name),
            "singularName": "",
            "namespaced": false,
            "kind": resource.kind,
            "verbs": verbs,
        })
    }));
    let group_version = format!("{}/{version}", resource.group);
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list })
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// True if a client accepts aggregated discovery: all groups in one document (since Kubernetes 1.30).
fn wants_aggregated(accept: &str) -> bool {
    accept.split(',').any(|range| range.split_whitespace().collect::<String>() == AGGREGATED)
}

fn aggregated(resources: &[Resource]) -> Response {
    let items: Vec<Value> = resources.iter().map(aggregated_group).collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    Response::new(200, AGGREGATED, to_json(&list))
}

fn aggregated_group(resource: &Resource) -> Value {
    let kind = json!({ "group": resource.group, "version": "v1", "kind": resource.kind });
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|(name, verbs)| json!({ "subresource": name, "responseKind": kind, "verbs": verbs }))
        .collect();
    let described = json!({
        "resource": resource.name,
        "singularResource": resource.singular,
        "responseKind": kind,
        "scope": "Cluster",
        "verbs": resource.verbs,
        "shortNames": resource.short,
        "subresources": subresources,
    });
    json!({
        "metadata": { "name": resource.group, "creationTimestamp": null },
        "versions": [{ "version": "v1", "freshness": "Current", "resources": [described] }],
    })
}

fn openapi_index() -> Value {
    let path = format!("apis/{}/v1", status::GROUP);
    let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
    json!({ "paths": { path: { "serverRelativeURL": url } } })
}
