//! Pods, service accounts and Node objects. The server checks their metadata and few of their fields.

use serde_json::{Value, json};

use super::message::Response;
use super::object::Plain;
use super::resource::Key;
use super::validation::{forbidden, required, subdomain_error};
use super::{metadata, status};
use perennial_kubernetes::objects::StatusCause;

/// Checks the metadata of an object.
pub(super) fn check(object: &Plain, key: &Key) -> Result<(), Response> {
    refuse(key, metadata::check(&object.metadata, subdomain_error))
}

fn refuse(key: &Key, causes: Vec<StatusCause>) -> Result<(), Response> {
    if causes.is_empty() { Ok(()) } else { Err(status::invalid(key, causes)) }
}

/// Checks a new pod, and sets the service account `default` if the pod has none. The pod is pending: nothing runs it.
pub(super) fn prepare_pod(pod: &mut Plain, key: &Key) -> Result<(), Response> {
    let mut causes = metadata::check(&pod.metadata, subdomain_error);
    let containers = pod.fields.get("spec").and_then(|spec| spec.get("containers"));
    if containers.and_then(Value::as_array).is_none_or(Vec::is_empty) {
        causes.push(required("spec.containers", ""));
    }
    refuse(key, causes)?;
    if pod.text("spec.serviceAccountName").is_empty()
        && let Some(spec) = pod.fields.get_mut("spec")
    {
        spec["serviceAccountName"] = "default".into();
    }
    pod.fields.insert("status".into(), json!({ "phase": "Pending" }));
    Ok(())
}

/// Changes a Node object or service account as an update to `new` does: all fields may change.
pub(super) fn update(object: &mut Plain, new: Plain, key: &Key) -> Result<(), Response> {
    object.metadata.labels = new.metadata.labels;
    object.metadata.annotations = new.metadata.annotations;
    object.fields = new.fields;
    check(object, key)
}

/// Changes `pod` as an update to `new` does: only labels and annotations may change.
pub(super) fn update_pod(pod: &mut Plain, new: Plain, key: &Key) -> Result<(), Response> {
    let mut causes = Vec::new();
    if new.fields.get("spec") != pod.fields.get("spec") {
        causes.push(forbidden("spec", "pod updates may not change fields of the spec"));
    }
    pod.metadata.labels = new.metadata.labels;
    pod.metadata.annotations = new.metadata.annotations;
    causes.extend(metadata::check(&pod.metadata, subdomain_error));
    refuse(key, causes)
}
