//! Request bodies in JSON or protobuf. As in Go, a JSON field with the value `null` counts as absent.

use serde::Deserialize;
use serde_json::Value;

use super::fields::{self, FieldValidation};
use super::message::{ApiRequest, Response, to_json};
use super::object::Object;
use super::options::is_dry_run;
use super::protobuf::{self, Fields};
use super::resource::Resource;
use super::status;

/// Largest object that the server takes from a body or from the result of a patch, in bytes.
pub(super) const LARGEST: usize = 64 * 1024;

/// Reads an object of `resource` from a body. Returns the object and warnings about unknown fields.
pub(super) fn stored_object(
    request: &ApiRequest,
    resource: Resource,
    fields: FieldValidation,
) -> Result<(Object, Vec<String>), Response> {
    if request.body.len() > LARGEST {
        return Err(too_large());
    }
    let value = object(request, protobuf::fields(resource), resource.kind(), &resource.api_version())?;
    typed(value, resource, fields, |why| status::bad_request(fields::cannot_be_handled(resource, why)))
}

/// Reads an object of `resource` from the result of a patch. Returns the object and warnings about unknown fields.
pub(super) fn patched(
    mut value: Value,
    resource: Resource,
    fields: FieldValidation,
) -> Result<(Object, Vec<String>), Response> {
    drop_nulls(&mut value);
    // The patch was within the limit, but its result may not be.
    if to_json(&value).len() > LARGEST {
        return Err(too_large());
    }
    expect_type(&value, resource.kind(), &resource.api_version())?;
    typed(value, resource, fields, status::unreadable_patch)
}

fn typed(
    value: Value,
    resource: Resource,
    fields: FieldValidation,
    refuse: impl Fn(&str) -> Response,
) -> Result<(Object, Vec<String>), Response> {
    let warnings = fields.check(resource, &value).map_err(|why| refuse(&why))?;
    let object = Object::read(resource, value).map_err(|error| refuse(&error.to_string()))?;
    Ok((object, warnings))
}

pub(super) fn too_large() -> Response {
    status::refused(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {LARGEST}"))
}

/// Reads an object of this kind and API version from a body. Refuses an object of another kind or version. The body may
/// omit both fields.
pub(super) fn object(
    request: &ApiRequest,
    fields: Option<Fields>,
    kind: &str,
    version: &str,
) -> Result<Value, Response> {
    let value = value(request, fields, kind)?;
    expect_type(&value, kind, version)?;
    Ok(value)
}

/// The UID and the resource version that a stored object must have to be deleted or updated; `None` accepts any.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Preconditions {
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
}

impl Preconditions {
    /// Refuses, with 409, a change of an object that has another UID or resource version than required.
    pub(super) fn check(&self, object: &Object) -> Result<(), Response> {
        let metadata = object.metadata();
        let checks = [
            ("UID", &self.uid, &metadata.uid),
            ("ResourceVersion", &self.resource_version, &metadata.resource_version),
        ];
        for (what, wanted, actual) in checks {
            if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != actual) {
                let why =
                    format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}");
                return Err(status::conflict(&object.key(), why));
            }
        }
        Ok(())
    }
}

/// The `DeleteOptions` in the body of a deletion; the defaults if the body is empty.
pub(super) fn delete_options(request: &ApiRequest) -> Result<DeleteOptions, Response> {
    if request.body.is_empty() {
        return Ok(DeleteOptions::default());
    }
    let value = value(request, Some(protobuf::DELETE_OPTIONS), DELETE_OPTIONS)?;
    serde_json::from_value(value).map_err(|error| unreadable(DELETE_OPTIONS, error))
}

const DELETE_OPTIONS: &str = "DeleteOptions";

/// The body of a DELETE request. This server reads only `preconditions` and `dryRun`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DeleteOptions {
    pub(super) preconditions: Preconditions,
    dry_run: Vec<String>,
}

impl DeleteOptions {
    pub(super) fn dry_run(&self) -> Result<bool, Response> {
        is_dry_run(self.dry_run.iter().map(String::as_str), DELETE_OPTIONS)
    }
}

/// The `Content-Type` of a request, without parameters.
pub(super) fn media_type(request: &ApiRequest) -> &str {
    request.content_type.split(';').next().unwrap_or_default().trim()
}

/// The body as JSON. A protobuf body with these fields is converted to the JSON of the same object; without fields, it
/// is refused.
fn value(request: &ApiRequest, fields: Option<Fields>, kind: &str) -> Result<Value, Response> {
    let mut value = match (media_type(request), fields) {
        ("" | "application/json", _) => serde_json::from_slice(&request.body)
            .map_err(|error| status::bad_request(format!("couldn't get version/kind; json parse error: {error}")))?,
        ("application/vnd.kubernetes.protobuf", Some(fields)) => {
            protobuf::read(&request.body, fields).map_err(|error| unreadable(kind, error))?
        }
        _ => return Err(status::unsupported_media_type()),
    };
    drop_nulls(&mut value);
    Ok(value)
}

/// Removes all fields with the value `null`: Go treats such fields as absent.
fn drop_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, field| !field.is_null());
        fields.values_mut().for_each(drop_nulls);
    } else if let Value::Array(items) = value {
        items.iter_mut().for_each(drop_nulls);
    }
}

fn expect_type(value: &Value, kind: &str, version: &str) -> Result<(), Response> {
    let given = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    expect(given("apiVersion"), version, kind)?;
    expect(given("kind"), kind, kind)
}

fn expect(given: &str, wanted: &str, kind: &str) -> Result<(), Response> {
    if given.is_empty() || given == wanted {
        return Ok(());
    }
    Err(status::bad_request(format!("the object provided is unrecognized: {given:?} where a {kind} is expected")))
}

pub(super) fn unreadable(kind: &str, error: impl std::fmt::Display) -> Response {
    status::bad_request(format!("{kind} in the body cannot be read: {error}"))
}
