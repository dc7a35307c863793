//! Error answers with the texts of a cluster (apimachinery `pkg/api/errors`).

use std::fmt::Display;

use super::Options;
use super::message::Response;
use super::resource::Key;
use perennial_kubernetes::objects::{ListMeta, Status, StatusCause, StatusDetails};

pub(super) const GROUP: &str = "certificates.k8s.io";

fn failure(code: u16, reason: &str, message: impl Into<String>) -> Status {
    Status {
        api_version: "v1".into(),
        kind: "Status".into(),
        status: "Failure".into(),
        message: message.into(),
        reason: reason.into(),
        code,
        ..Status::default()
    }
}

/// An error answer: `status` with these details.
fn detailed(details: StatusDetails, status: Status) -> Response {
    response(&Status { details: Some(details), ..status })
}

pub(super) fn cause(reason: &str, field: impl Into<String>, message: impl Into<String>) -> StatusCause {
    StatusCause { reason: reason.into(), message: message.into(), field: field.into() }
}

/// `Status` details with one cause and nothing else.
fn with_cause(cause: StatusCause) -> StatusDetails {
    StatusDetails { causes: vec![cause], ..StatusDetails::default() }
}

/// `Status` details that name an object and, as `kind`, its kind or its resource.
fn details(key: &Key, kind: &str) -> StatusDetails {
    let group = key.resource.group().into();
    StatusDetails { name: key.name.clone(), group, kind: kind.into(), ..StatusDetails::default() }
}

/// The HTTP response with this `Status` object as its body.
pub(super) fn response(status: &Status) -> Response {
    let mut response = Response::json(status.code, status);
    response.retry_after = status.details.as_ref().and_then(|details| details.retry_after_seconds);
    response
}

fn about_object(key: &Key, status: Status) -> Response {
    detailed(details(key, key.resource.plural()), status)
}

pub(super) fn deleted(key: &Key, uid: &str) -> Response {
    let details = StatusDetails { uid: uid.into(), ..details(key, key.resource.plural()) };
    let status = Status {
        api_version: "v1".into(),
        kind: "Status".into(),
        status: "Success".into(),
        details: Some(details),
        ..Status::default()
    };
    Response::json(200, &status)
}

pub(crate) fn bad_request(message: impl Into<String>) -> Response {
    refused(400, "BadRequest", message)
}

pub(crate) fn unauthorized() -> Response {
    refused(401, "Unauthorized", "Unauthorized")
}

/// Forbidden (403), with this message and no details about an object.
pub(super) fn forbidden_path(message: impl Into<String>) -> Response {
    refused(403, "Forbidden", message)
}

pub(super) fn forbidden(key: &Key, why: impl Display) -> Response {
    let resource = key.resource.qualified();
    let named = if key.name.is_empty() { String::new() } else { format!(" {:?}", key.name) };
    about_object(key, failure(403, "Forbidden", format!("{resource}{named} is forbidden: {why}")))
}

/// Internal error (500), which clients repeat.
pub(super) fn internal(message: impl Into<String>) -> Response {
    refused(500, "InternalError", message)
}

/// Not found (404), in plain text as from Go's HTTP server: the answer to a path outside all APIs.
pub(super) fn no_such_path() -> Response {
    Response::text(404, "404 page not found\n")
}

/// Not found (404), as a `Status`: the answer to an unknown path within an API.
pub(super) fn no_such_resource() -> Response {
    let details = with_cause(cause("UnexpectedServerResponse", "", "404 page not found"));
    detailed(details, failure(404, "NotFound", "the server could not find the requested resource"))
}

pub(super) fn not_found(key: &Key) -> Response {
    about_object(key, failure(404, "NotFound", format!("{} {:?} not found", key.resource.qualified(), key.name)))
}

pub(super) fn method_not_allowed() -> Response {
    refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
}

pub(super) fn not_acceptable() -> Response {
    let message = "only the following media types are accepted: application/json";
    refused(406, "NotAcceptable", message)
}

pub(super) fn already_exists(key: &Key) -> Response {
    let message = format!("{} {:?} already exists", key.resource.qualified(), key.name);
    about_object(key, failure(409, "AlreadyExists", message))
}

pub(super) fn conflict(key: &Key, why: impl Display) -> Response {
    let message = format!("Operation cannot be fulfilled on {} {:?}: {why}", key.resource.qualified(), key.name);
    about_object(key, failure(409, "Conflict", message))
}

/// Message of a conflict (409): the stored object has a newer resource version than the object in the update.
pub(super) const STALE: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// Gone (410): the store no longer has the changes since this resource version.
pub(super) fn expired(requested: u64, oldest: u64) -> Status {
    failure(410, "Expired", format!("too old resource version: {requested} ({oldest})"))
}

/// Gone (410): the requested resource version is ahead of this server's, for example because the server has restarted.
pub(super) fn version_ahead(requested: u64, current: u64) -> Status {
    failure(410, "Expired", format!("resource version {requested} is ahead of this server's, which is {current}"))
}

/// Gone (410): the requested page is no longer available at the version of the list. With `token`, the client can
/// continue at the latest version.
pub(super) fn continue_expired(token: String) -> Response {
    let message = "The provided continue parameter is too old to display a consistent list result. You can start a \
                   new list without the continue parameter, or use the continue token in this response to retrieve \
                   the remainder of the results. Continuing with the provided token results in an inconsistent list \
                   - objects that were created, modified, or deleted between the time the first chunk was returned \
                   and now may show up in the list.";
    let metadata = ListMeta { continue_: token, ..ListMeta::default() };
    response(&Status { metadata, ..failure(410, "Expired", message) })
}

/// Timeout (504): the client requests objects as of a version that this server has not reached yet.
pub(super) fn too_large_version(requested: u64, current: u64) -> Status {
    let cause = cause("ResourceVersionTooLarge", "", "Too large resource version");
    let details = StatusDetails { retry_after_seconds: Some(1), ..with_cause(cause) };
    let message = format!("Timeout: Too large resource version: {requested}, current: {current}");
    Status { details: Some(details), ..failure(504, "Timeout", message) }
}

pub(super) fn unsupported_media_type() -> Response {
    let message = "the body of the request was in an unknown format - accepted media types include: \
                   application/json, application/vnd.kubernetes.protobuf";
    refused(415, "UnsupportedMediaType", message)
}

pub(super) fn unsupported_patch() -> Response {
    let message = "the body of the request was in an unknown format - accepted media types include: \
                   application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";
    refused(415, "UnsupportedMediaType", message)
}

/// Invalid (422): an operation of a JSON patch cannot be applied to the object.
pub(super) fn inapplicable(why: &str) -> Response {
    let message = "the server rejected our request due to an error in our request";
    detailed(with_cause(cause("", "", why)), failure(422, "Invalid", message))
}

/// Invalid (422): the result of a patch is not a certificate signing request.
pub(super) fn unreadable_patch(why: &str) -> Response {
    invalid_object(StatusDetails::default(), vec![cause("FieldValueInvalid", "patch", why)])
}

pub(super) fn invalid(key: &Key, causes: Vec<StatusCause>) -> Response {
    invalid_object(details(key, key.resource.kind()), causes)
}

/// Invalid (422): a query parameter of a LIST or WATCH has the error `cause`.
pub(super) fn invalid_list_options(cause: StatusCause) -> Response {
    invalid_options("ListOptions", cause)
}

/// Invalid (422): a query parameter or field of the options of this kind, such as `CreateOptions`, has the error
/// `cause`.
pub(super) fn invalid_options(kind: &str, cause: StatusCause) -> Response {
    let details = StatusDetails { group: "meta.k8s.io".into(), kind: kind.into(), ..StatusDetails::default() };
    invalid_object(details, vec![cause])
}

/// Invalid (422): the object has the errors in `causes`, which must not be empty.
fn invalid_object(details: StatusDetails, causes: Vec<StatusCause>) -> Response {
    let messages: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    let messages = if let [one] = messages.as_slice() { one.clone() } else { format!("[{}]", messages.join(", ")) };
    let dot = if details.group.is_empty() { "" } else { "." };
    let message = format!("{}{dot}{} {:?} is invalid: {messages}", details.kind, details.group, details.name);
    detailed(StatusDetails { causes, ..details }, failure(422, "Invalid", message))
}

/// Too many requests (429), with a `Retry-After` of 60 seconds: the store is full.
pub(super) fn store_full(key: &Key, options: &Options) -> Response {
    let message = format!(
        "this server keeps at most {} objects, and {} KiB of them; delete some, or wait until old requests are removed",
        options.capacity,
        options.memory / 1024
    );
    let details = StatusDetails { retry_after_seconds: Some(60), ..details(key, key.resource.plural()) };
    detailed(details, failure(429, "TooManyRequests", message))
}

pub(super) fn too_many_watches(most: usize) -> Response {
    busy(format!("this server has {most} watches open, its limit; end some, or try again"))
}

pub(crate) fn too_many_clients() -> Response {
    busy("too many clients are connected to this server; try again")
}

/// Too many requests (429), with a `Retry-After` of one second.
fn busy(message: impl Into<String>) -> Response {
    let details = StatusDetails { retry_after_seconds: Some(1), ..StatusDetails::default() };
    detailed(details, failure(429, "TooManyRequests", message))
}

/// An error answer without details.
pub(crate) fn refused(code: u16, reason: &str, message: impl Into<String>) -> Response {
    response(&failure(code, reason, message))
}
