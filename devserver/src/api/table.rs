//! Tables (`meta.k8s.io/v1`), the form in which `kubectl get` requests objects. The columns are those of a real API
//! server.

use std::borrow::Cow;

use perennial::UnixTime;
use serde_json::{Value, json};

use super::controllers::has;
use super::message::{Query, to_json};
use super::nodes::addresses;
use super::object::Object;
use super::resource::Resource;
use super::store::Stored;
use perennial_kubernetes::addresses::AddressType;
use perennial_kubernetes::objects::{CertificateSigningRequest, CsrSpec, ListMeta, PodCertificateSpec};

/// Representation of objects in an answer: as objects, or as rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The objects themselves.
    Objects,
    /// Rows of a table, each with this part of the object.
    Table(Include),
}

/// The part of an object that accompanies its row in a table (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Shape {
    /// The representation that the header `Accept` requests: that of the first media type in the header that this
    /// server can write. `None` if this server can write none of the media types.
    pub(super) fn accepted(accept: &str, query: &Query) -> Option<Self> {
        if accept.trim().is_empty() {
            return Some(Self::Objects);
        }
        accept.split(',').find_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
                return None;
            }
            let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
            let parameter = |key| parameters.iter().find(|(have, _)| *have == key).map(|(_, value)| *value);
            match (parameter("as"), parameter("g"), parameter("v")) {
                (None, _, _) => Some(Self::Objects),
                (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Some(Self::Table(Include::from_query(query))),
                (Some(_), _, _) => None,
            }
        })
    }
}

impl Include {
    fn from_query(query: &Query) -> Self {
        match query.get("includeObject") {
            Some("None") => Self::Nothing,
            Some("Object") => Self::Object,
            Some(_) | None => Self::Metadata,
        }
    }
}

impl Shape {
    /// The text of a list before its first item. Commas separate the items, and [`CLOSING`] ends the list.
    pub(super) fn opening(self, resource: Resource, metadata: &ListMeta) -> Vec<u8> {
        let (list, items) = match self {
            Self::Objects => (
                json!({
                    "kind": format!("{}List", resource.kind()),
                    "apiVersion": resource.api_version(),
                    "metadata": metadata,
                }),
                "items",
            ),
            Self::Table(_) => (
                json!({
                    "kind": "Table",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                    "columnDefinitions": columns(resource),
                }),
                "rows",
            ),
        };
        let mut text = to_json(&list);
        // Removes the closing brace: the items follow as the last field.
        text.pop();
        text.extend_from_slice(format!(",\"{items}\":[").as_bytes());
        text
    }

    /// The text of one item of a list.
    pub(super) fn item(self, stored: &Stored, now: UnixTime) -> Cow<'_, [u8]> {
        match self {
            Self::Objects => Cow::Borrowed(&stored.json),
            Self::Table(include) => Cow::Owned(to_json(&row(stored, include, now))),
        }
    }
}

/// The text after the last item of a list.
pub(super) const CLOSING: &[u8] = b"]}";

/// The text of an answer with one object, in the representation `shape`.
pub(super) fn shaped(stored: &Stored, shape: Shape, now: UnixTime) -> Cow<'_, [u8]> {
    match shape {
        Shape::Objects => shape.item(stored, now),
        Shape::Table(_) => {
            let resource_version = stored.object.metadata().resource_version.clone();
            let opening = shape.opening(stored.key.resource, &ListMeta { resource_version, ..ListMeta::default() });
            Cow::Owned([&opening, &*shape.item(stored, now), CLOSING].concat())
        }
    }
}

/// The columns of tables of this resource (`pkg/printers/internalversion`).
fn columns(resource: Resource) -> Vec<Value> {
    let name = column("Name", "name", "Name must be unique within a namespace.");
    let age = column("Age", "", "Time since the object was created.");
    match resource {
        Resource::CertificateSigningRequests => vec![
            name,
            age,
            column("SignerName", "", "The requested signer."),
            column("Requestor", "", "The user who submitted the request."),
            column("RequestedDuration", "", "The requested lifetime; a signer may shorten it."),
            column("Condition", "", "The conditions of the request, and whether a certificate was issued."),
        ],
        Resource::ClusterTrustBundles => {
            vec![name, column("SignerName", "", "The signer whose certificates the bundle verifies.")]
        }
        Resource::Nodes => vec![
            name,
            column("Status", "", "The conditions of the node."),
            column("Roles", "", "The roles of the node."),
            age,
            column("Version", "", "The version of the kubelet."),
            wide("Internal-IP", "The first internal address."),
            wide("External-IP", "The first external address."),
        ],
        Resource::PodCertificateRequests => vec![
            name,
            column("PodName", "", "The pod that the certificate is for."),
            column("ServiceAccountName", "", "The service account of the pod."),
            column("NodeName", "", "The node that the pod is bound to."),
            column("SignerName", "", "The requested signer."),
            column("State", "", "The decision of the signer."),
        ],
        Resource::Pods => vec![
            name,
            column("Ready", "", "The containers that are ready, of all."),
            column("Status", "", "The phase of the pod."),
            column("Restarts", "", "The number of restarts of containers."),
            age,
            wide("IP", "The address of the pod."),
            wide("Node", "The node that the pod is bound to."),
            wide("Nominated Node", "The node that the pod waits for."),
            wide("Readiness Gates", "The conditions that the pod waits for."),
        ],
        Resource::ServiceAccounts => vec![name, column("Secrets", "", "The number of secrets."), age],
    }
}

fn column(name: &str, format: &str, description: &str) -> Value {
    json!({ "name": name, "type": "string", "format": format, "description": description, "priority": 0 })
}

/// A column that only `kubectl get -o wide` shows.
fn wide(name: &str, description: &str) -> Value {
    json!({ "name": name, "type": "string", "format": "", "description": description, "priority": 1 })
}

fn row(stored: &Stored, include: Include, now: UnixTime) -> Value {
    let cells = cells(stored, now);
    match include {
        Include::Nothing => json!({ "cells": cells, "object": null }),
        Include::Metadata => json!({
            "cells": cells,
            "object": {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": stored.object.metadata(),
            },
        }),
        Include::Object => json!({ "cells": cells, "object": stored.object.to_value() }),
    }
}

/// The cells of a row, one for each of the [`columns`].
fn cells(stored: &Stored, now: UnixTime) -> Value {
    let name = &stored.object.metadata().name;
    let age = human_duration((now.as_millis() - stored.created.as_millis()) / 1000);
    match &stored.object {
        Object::Csr(csr) => {
            let CsrSpec { expiration_seconds, signer_name, username, .. } = &csr.spec;
            let requested =
                expiration_seconds.map_or_else(|| "<none>".into(), |seconds| human_duration(i64::from(seconds)));
            json!([name, age, signer_name, username, requested, csr_condition(csr)])
        }
        Object::TrustBundle(bundle) => json!([name, or_none(bundle.text("spec.signerName"))]),
        Object::PodRequest(request) => {
            let PodCertificateSpec { pod_name, service_account_name, node_name, signer_name, .. } = &request.spec;
            let state = request.status.conditions.first().map_or("Pending", |condition| &condition.type_);
            json!([name, pod_name, service_account_name, node_name, signer_name, state])
        }
        Object::Node(node) => {
            let addresses = addresses(node);
            let address = |kind| {
                let found = addresses.iter().find(|address| address.kind == kind);
                found.map_or("<none>", |found| &found.address)
            };
            // Nothing runs on the node: no kubelet reports conditions and a version.
            json!([
                name,
                "Unknown",
                "<none>",
                age,
                "",
                address(AddressType::InternalIp),
                address(AddressType::ExternalIp)
            ])
        }
        Object::Pod(pod) => {
            let containers = pod.fields.get("spec").and_then(|spec| spec.get("containers")?.as_array());
            let ready = format!("0/{}", containers.map_or(0, Vec::len));
            let (phase, node) = (or_none(pod.text("status.phase")), or_none(pod.text("spec.nodeName")));
            json!([name, ready, phase, "0", age, "<none>", node, "<none>", "<none>"])
        }
        Object::ServiceAccount(account) => {
            let secrets = account.fields.get("secrets").and_then(Value::as_array).map_or(0, Vec::len);
            json!([name, secrets.to_string(), age])
        }
    }
}

/// `<none>` in place of an empty text.
fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

fn csr_condition(csr: &CertificateSigningRequest) -> String {
    let has = |kind| has(csr, kind);
    let mut text = String::from(match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    });
    if has("Failed") {
        text.push_str(",Failed");
    }
    if !csr.status.certificate.is_empty() {
        text.push_str(",Issued");
    }
    text
}

/// Formats a number of seconds as `kubectl get` does, such as `2m5s` (apimachinery `duration.HumanDuration`).
fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |large: i64, large_unit, small: i64, small_unit| {
        if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit}{small}{small_unit}") }
    };
    match seconds {
        ..-1 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(days / 365, "y", days % 365, "d"),
        252_288_000.. => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::ApiRequest;
    use super::*;
    use crate::Method;

    #[test]
    fn durations_are_formatted_as_by_kubectl() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (125, "2m5s"),
            (540, "9m"),
            (3600, "60m"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (50 * 3600, "2d2h"),
            (31_536_000, "365d"),
            (3 * 31_536_000, "3y"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }

    #[test]
    fn first_supported_media_type_of_accept_is_used() {
        let query = ApiRequest::new(Method::GET, "/?includeObject=Object").query();
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                       application/json";
        for (accept, shape) in [
            ("", Some(Shape::Objects)),
            ("*/*", Some(Shape::Objects)),
            (kubectl, Some(Shape::Table(Include::Object))),
            ("application/vnd.kubernetes.protobuf, application/json", Some(Shape::Objects)),
            ("application/vnd.kubernetes.protobuf", None),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", None),
        ] {
            assert_eq!(Shape::accepted(accept, &query), shape, "{accept}");
        }
    }
}
