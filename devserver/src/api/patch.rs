//! Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7396) and Kubernetes' strategic merge patch.
//!
//! A strategic merge patch without directives is applied as a merge patch. The two are equivalent here, since no field
//! of a certificate signing request, not even the conditions, has a merge strategy (`patchStrategy`).

use json_patch::PatchOperation;
use serde_json::Value;

use super::body;
use super::fields::FieldValidation;
use super::message::{ApiRequest, Response};
use super::object::Object;
use super::status;

/// Largest depth, in levels, of an object that a patch may produce. A valid request has less than half of this depth.
const DEEPEST: usize = 32;

/// Applies the patch in the body of `request` to `object`, without validation. Returns the result and warnings about
/// unknown fields.
pub(super) fn apply(
    request: &ApiRequest,
    object: &Object,
    fields: FieldValidation,
) -> Result<(Object, Vec<String>), Response> {
    let mut value = object.to_value();
    match body::media_type(request) {
        "application/json-patch+json" => operate(&mut value, &decode::<Vec<PatchOperation>>(request)?)?,
        media @ ("application/merge-patch+json" | "application/strategic-merge-patch+json") => {
            let merge: Value = decode(request)?;
            if !merge.is_object() {
                return Err(status::bad_request("error decoding patch: not an object"));
            }
            if media.starts_with("application/strategic") {
                refuse_directives(&merge)?;
            }
            json_patch::merge(&mut value, &merge);
        }
        _ => return Err(status::unsupported_patch()),
    }
    body::patched(value, object.resource(), fields)
}

fn decode<T: serde::de::DeserializeOwned>(request: &ApiRequest) -> Result<T, Response> {
    serde_json::from_slice(&request.body).map_err(|error| status::bad_request(format!("error decoding patch: {error}")))
}

/// Refuses directives of strategic merge patches, such as `$patch`: a plain merge would make them fields of the object.
fn refuse_directives(merge: &Value) -> Result<(), Response> {
    match merge {
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| {
            if matches!(key.as_str(), "$patch" | "$retainKeys")
                || key.starts_with("$setElementOrder/")
                || key.starts_with("$deleteFromPrimitiveList/")
            {
                let message =
                    format!("this server does not support directives of strategic merge patches; leave out {key:?}");
                return Err(status::bad_request(message));
            }
            refuse_directives(value)
        }),
        Value::Array(items) => items.iter().try_for_each(refuse_directives),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// Applies the operations of a JSON patch to `value` one by one. Checks the size after each, since repeated `copy`
/// grows an object exponentially.
fn operate(value: &mut Value, operations: &[PatchOperation]) -> Result<(), Response> {
    for operation in operations {
        json_patch::patch_unsafe(value, std::slice::from_ref(operation))
            .map_err(|error| status::inapplicable(&format!("{}: {}", operation.path(), error.kind)))?;
        weigh(value, DEEPEST).filter(|weight| *weight <= body::LARGEST).ok_or_else(body::too_large)?;
    }
    Ok(())
}

/// Approximate size of a value in bytes; `None` if the value is nested deeper than `depth`.
fn weigh(value: &Value, depth: usize) -> Option<usize> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(8),
        Value::String(text) => Some(text.len() + 2),
        Value::Array(items) => items.iter().try_fold(2, |sum, item| Some(sum + weigh(item, depth)?)),
        Value::Object(fields) => {
            fields.iter().try_fold(2, |sum, (key, field)| Some(sum + key.len() + weigh(field, depth)?))
        }
    }
}
