//! OpenAPI v3: the fields of the stored objects, which `kubectl explain` and the validation of `kubectl apply` read.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::resource::{Names, Resource};
use super::validation::Subresource;

/// The schemas of all stored objects, by name.
static SCHEMAS: LazyLock<Map<String, Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("schemas.json")).expect("the file is JSON, a test reads it"));

const REFERENCE: &str = "#/components/schemas/";

/// The schema of the objects of `resource`.
pub(super) fn schema(resource: Resource) -> &'static Value {
    resolve(&reference(resource))
}

/// The schema that a reference such as `#/components/schemas/io.k8s.api.core.v1.Pod` names; `null` if there is none.
pub(super) fn resolve(reference: &str) -> &'static Value {
    reference.strip_prefix(REFERENCE).and_then(|name| SCHEMAS.get(name)).unwrap_or(&Value::Null)
}

fn reference(resource: Resource) -> String {
    let Names { group, version, kind, .. } = resource.names();
    let group = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or_default() };
    format!("{REFERENCE}io.k8s.api.{group}.{version}.{kind}")
}

/// The document of a group and version with these resources. It contains all schemas: clients follow references only.
pub(super) fn document(resources: &[Resource]) -> Value {
    let mut paths = Map::new();
    for resource in resources {
        let Names { plural, .. } = resource.names();
        let root = if resource.group().is_empty() { "/api" } else { "/apis" };
        let namespace = if resource.is_namespaced() { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}/{}{namespace}/{plural}", resource.api_version());
        let operations = |operations: &[(&str, &str)]| -> Value {
            operations
                .iter()
                .map(|(method, action)| ((*method).to_owned(), operation(*resource, action)))
                .collect::<Map<_, _>>()
                .into()
        };
        paths.insert(
            format!("{collection}/{{name}}"),
            operations(&[("get", "get"), ("put", "put"), ("patch", "patch"), ("delete", "delete")]),
        );
        for subresource in ["approval", "status"] {
            if Subresource::find(*resource, subresource).is_some() {
                let path = format!("{collection}/{{name}}/{subresource}");
                paths.insert(path, operations(&[("get", "get"), ("put", "put"), ("patch", "patch")]));
            }
        }
        paths.insert(collection, operations(&[("get", "list"), ("post", "post"), ("delete", "deletecollection")]));
    }
    json!({
        "openapi": "3.0.0",
        "info": { "title": "perennial", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "schemas": *SCHEMAS },
    })
}

fn operation(resource: Resource, action: &str) -> Value {
    let Names { group, version, kind, .. } = resource.names();
    let parameters: &[(&str, &str, &str)] = match action {
        "get" => &[],
        "list" => &[
            ("limit", "integer", "Largest number of objects."),
            ("continue", "string", "The token of the next page."),
            ("labelSelector", "string", "Selects objects by labels."),
            ("fieldSelector", "string", "Selects objects by fields."),
            ("watch", "boolean", "Whether to continue with changes."),
        ],
        _ => &[
            ("dryRun", "string", "All: check and answer, store nothing."),
            ("fieldManager", "string", "Accepted and not used."),
            ("fieldValidation", "string", "Handling of unknown fields: Ignore, Warn (the default) or Strict."),
        ],
    };
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|(name, kind, description)| {
            let schema = json!({ "type": kind, "uniqueItems": true });
            json!({ "name": name, "in": "query", "description": description, "schema": schema })
        })
        .collect();
    let content = json!({ "application/json": { "schema": { "$ref": reference(resource) } } });
    let mut operation = json!({
        "operationId": format!("{action}{}{version}{kind}", group.split('.').next().unwrap_or_default()),
        "parameters": parameters,
        "responses": { "200": { "description": "OK", "content": content } },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": { "group": group, "version": version, "kind": kind },
    });
    if matches!(action, "post" | "put") {
        operation["requestBody"] = json!({ "content": content, "required": true });
    }
    operation
}
