//! Discovery documents, which `kubectl` requests before anything else.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::message::{Response, to_json};
use super::resource::{Names, Resource};
use super::validation::Subresource;
use super::{openapi, status};

/// The groups of reviews, as in aggregated discovery.
static REVIEWS: LazyLock<Vec<Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("discovery.json")).expect("the file is JSON, tests read it"));

/// Minor version of Kubernetes that introduced `certificates.k8s.io/v1`.
pub(super) const V1_SINCE: u32 = 19;

/// The document at `path`; `None` if the path has no document. The documents for older clients (`APIGroupList`,
/// `APIResourceList`) are derived from aggregated discovery.
pub(super) fn answer(path: &[&str], accept: &str, minor: u32) -> Option<Response> {
    let core = || group("", minor);
    let groups = || {
        let mut groups = vec![group(status::GROUP, minor)];
        groups.extend(REVIEWS.iter().cloned());
        groups
    };
    // Servers that old have no aggregated discovery.
    let aggregates = wants_aggregated(accept) && minor >= V1_SINCE;
    let document = match *path {
        ["version"] => version(minor),
        ["api"] if aggregates => return Some(aggregated(vec![core()])),
        ["apis"] if aggregates => return Some(aggregated(groups())),
        ["api"] => json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }),
        ["apis"] => {
            let groups: Vec<Value> = groups().iter().map(summary).collect();
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
        }
        ["api", version] => resources(&core(), version)?,
        ["apis", name] => {
            let mut found = summary(groups().iter().find(|group| group["metadata"]["name"] == name)?);
            found["kind"] = "APIGroup".into();
            found["apiVersion"] = "v1".into();
            found
        }
        ["apis", name, version] => {
            resources(groups().iter().find(|group| group["metadata"]["name"] == name)?, version)?
        }
        ["openapi", "v3"] => openapi_index(minor),
        ["openapi", "v3", "api", version] => schema_document("", version, minor)?,
        ["openapi", "v3", "apis", group, version] => schema_document(group, version, minor)?,
        _ => return None,
    };
    Some(Response::json(200, &document))
}

fn aggregated(groups: Vec<Value>) -> Response {
    let document = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": groups,
    });
    Response::new(200, AGGREGATED, to_json(&document))
}

/// The stored resources of an API group in Kubernetes 1.`minor`, as in aggregated discovery.
fn group(name: &str, minor: u32) -> Value {
    let versions = ["v1", "v1beta1"].into_iter().filter_map(|version| {
        let served = Resource::ALL
            .into_iter()
            .filter(|resource| resource.group() == name && version_in(*resource, minor) == Some(version));
        let resources: Vec<Value> = served.map(|resource| entry(resource, version)).collect();
        let found = json!({ "version": version, "freshness": "Current", "resources": resources });
        (!resources.is_empty()).then_some(found)
    });
    let versions: Vec<Value> = versions.collect();
    json!({ "metadata": { "name": name, "creationTimestamp": null }, "versions": versions })
}

/// The version of a resource in Kubernetes 1.`minor`; `None` if that release does not serve the resource.
fn version_in(resource: Resource, minor: u32) -> Option<&'static str> {
    match resource {
        // Listed, but not served: see `Options::minor`.
        Resource::CertificateSigningRequests if minor < V1_SINCE => Some("v1beta1"),
        _ => (resource.since() <= minor).then(|| resource.names().version),
    }
}

fn entry(resource: Resource, version: &str) -> Value {
    let Names { group, plural, kind, .. } = resource.names();
    let response_kind = json!({ "group": group, "version": version, "kind": kind });
    let subresources: Vec<Value> = ["approval", "status"]
        .into_iter()
        .filter(|name| Subresource::find(resource, name).is_some())
        .map(|name| json!({ "subresource": name, "responseKind": response_kind, "verbs": ["get", "patch", "update"] }))
        .collect();
    json!({
        "resource": plural,
        "singularResource": kind.to_ascii_lowercase(),
        "responseKind": response_kind,
        "scope": if resource.is_namespaced() { "Namespaced" } else { "Cluster" },
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        "shortNames": resource.short_names(),
        "subresources": subresources,
    })
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

fn summary(group: &Value) -> Value {
    let name = group["metadata"]["name"].as_str().unwrap_or_default();
    let versions = group["versions"].as_array().into_iter().flatten().filter_map(|version| version["version"].as_str());
    let versions: Vec<Value> =
        versions.map(|version| json!({ "groupVersion": format!("{name}/{version}"), "version": version })).collect();
    json!({ "name": name, "versions": versions, "preferredVersion": versions[0] })
}

/// The `APIResourceList` of a version of a group; `None` if the group has no such version.
fn resources(group: &Value, version: &str) -> Option<Value> {
    let found = group["versions"].as_array()?.iter().find(|found| found["version"] == version)?;
    let mut list = Vec::new();
    for resource in found["resources"].as_array().into_iter().flatten() {
        let (name, kind) = (resource["resource"].as_str().unwrap_or_default(), &resource["responseKind"]["kind"]);
        let namespaced = resource["scope"] == "Namespaced";
        list.push(json!({
            "name": name,
            "singularName": resource["singularResource"],
            "namespaced": namespaced,
            "kind": kind,
            "verbs": resource["verbs"],
            "shortNames": resource["shortNames"],
        }));
        list.extend(resource["subresources"].as_array().into_iter().flatten().map(|part| {
            json!({
                "name": format!("{name}/{}", part["subresource"].as_str().unwrap_or_default()),
                "singularName": "",
                "namespaced": namespaced,
                "kind": kind,
                "verbs": part["verbs"],
            })
        }));
    }
    let group_version = match group["metadata"]["name"].as_str().unwrap_or_default() {
        "" => version.into(),
        name => format!("{name}/{version}"),
    };
    Some(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list }))
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// True if the client accepts aggregated discovery, which lists all groups in one document (since Kubernetes 1.30).
fn wants_aggregated(accept: &str) -> bool {
    accept.split(',').any(|range| range.split_whitespace().collect::<String>() == AGGREGATED)
}

fn openapi_index(minor: u32) -> Value {
    let versions = Resource::ALL.into_iter().filter(|resource| resource.since() <= minor).map(|resource| {
        let root = if resource.group().is_empty() { "api" } else { "apis" };
        let path = format!("{root}/{}", resource.api_version());
        // Clients cache the document by its URL: another version of the schema needs another hash.
        let url = format!("/openapi/v3/{path}?hash={}-{minor}", env!("CARGO_PKG_VERSION"));
        (path, json!({ "serverRelativeURL": url }))
    });
    json!({ "paths": versions.collect::<Map<String, Value>>() })
}

/// The OpenAPI v3 document of a group and version; `None` if the group has no such version.
fn schema_document(group: &str, version: &str, minor: u32) -> Option<Value> {
    let served: Vec<Resource> = Resource::ALL
        .into_iter()
        .filter(|resource| resource.since() <= minor)
        .filter(|resource| (resource.group(), resource.names().version) == (group, version))
        .collect();
    (!served.is_empty()).then(|| openapi::document(&served))
}
