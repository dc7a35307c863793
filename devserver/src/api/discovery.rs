//! Discovery documents, which `kubectl` requests before anything else.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::fields::SCHEMA;
use super::message::{Response, to_json};
use super::status;

/// Aggregated discovery of all groups, each with one version and one resource. The documents for older clients
/// (`APIGroupList`, `APIResourceList`) are derived from this one.
static GROUPS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("discovery.json")).expect("the file is JSON, tests read it"));

/// Minor version of Kubernetes that introduced `certificates.k8s.io/v1`.
pub(super) const V1_SINCE: u32 = 19;

/// The document at `path`; `None` if the path has no document.
pub(super) fn answer(path: &[&str], accept: &str, minor: u32) -> Option<Response> {
    let groups = GROUPS["items"].as_array().map_or(&[][..], Vec::as_slice);
    let find = |name: &str| groups.iter().find(|group| group["metadata"]["name"] == name);
    let document = match *path {
        ["version"] => version(minor),
        ["api"] if wants_aggregated(accept) => {
            let mut none = GROUPS.clone();
            // The core group is empty in discovery: Node objects can be read, but not listed.
            none["items"] = json!([]);
            return Some(Response::new(200, AGGREGATED, to_json(&none)));
        }
        // Servers that old have no aggregated discovery: they answer with the group list below.
        ["apis"] if wants_aggregated(accept) && minor >= V1_SINCE => {
            return Some(Response::new(200, AGGREGATED, to_json(&*GROUPS)));
        }
        ["api"] => json!({ "kind": "APIVersions", "versions": [], "serverAddressByClientCIDRs": [] }),
        ["apis"] => {
            let groups: Vec<Value> = groups.iter().map(|group| summary(group, minor)).collect();
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
        }
        ["apis", name] => {
            let mut found = summary(find(name)?, minor);
            found["kind"] = "APIGroup".into();
            found["apiVersion"] = "v1".into();
            found
        }
        ["apis", name, version] if version == version_of(name, minor) => resources(find(name)?, version),
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

/// The version of an API group in Kubernetes 1.`minor`: `v1`, or `v1beta1` for the certificates API before 1.19.
fn version_of(group: &str, minor: u32) -> &'static str {
    if group == status::GROUP && minor < V1_SINCE { "v1beta1" } else { "v1" }
}

fn summary(group: &Value, minor: u32) -> Value {
    let name = group["metadata"]["name"].as_str().unwrap_or_default();
    let version = version_of(name, minor);
    let version = json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    json!({ "name": name, "versions": [version], "preferredVersion": version })
}

fn resources(group: &Value, version: &str) -> Value {
    let resource = &group["versions"][0]["resources"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (name, kind) = (text(&resource["resource"]), &resource["responseKind"]["kind"]);
    let mut list = vec![json!({
        "name": name,
        "singularName": resource["singularResource"],
        "namespaced": false,
        "kind": kind,
        "verbs": resource["verbs"],
        "shortNames": resource["shortNames"],
    })];
    list.extend(resource["subresources"].as_array().into_iter().flatten().map(|part| {
        json!({
            "name": format!("{name}/{}", text(&part["subresource"])),
            "singularName": "",
            "namespaced": false,
            "kind": kind,
            "verbs": part["verbs"],
        })
    }));
    let group_version = format!("{}/{version}", text(&group["metadata"]["name"]));
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list })
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// True if the client accepts aggregated discovery, which lists all groups in one document (since Kubernetes 1.30).
fn wants_aggregated(accept: &str) -> bool {
    accept.split(',').any(|range| range.split_whitespace().collect::<String>() == AGGREGATED)
}

fn openapi_index() -> Value {
    let path = format!("apis/{}/v1", status::GROUP);
    // Clients cache the document by its URL: another version of the schema needs another hash.
    let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
    json!({ "paths": { path: { "serverRelativeURL": url } } })
}
