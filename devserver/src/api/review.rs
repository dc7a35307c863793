//! SelfSubjectReview and SelfSubjectAccessReview: `kubectl auth whoami` and `kubectl auth can-i`.

use perennial::UnixTime;
use serde::Deserialize;
use serde_json::json;

use super::access::{Attributes, allowed, authorize_path};
use super::message::{ApiRequest, Response};
use super::user::User;
use super::{body, protobuf, rfc3339, status};

pub(super) fn answer(request: &ApiRequest, user: &User, resource: &str, now: UnixTime) -> Result<Response, Response> {
    match resource {
        "selfsubjectreviews" => who_am_i(request, user, now),
        "selfsubjectaccessreviews" => may_i(request, user),
        _ => Err(status::no_such_resource()),
    }
}

fn who_am_i(request: &ApiRequest, user: &User, now: UnixTime) -> Result<Response, Response> {
    const KIND: &str = "SelfSubjectReview";
    const VERSION: &str = "authentication.k8s.io/v1";
    body::object(request, Some(protobuf::REVIEW), KIND, VERSION)?;
    let review = json!({
        "kind": KIND,
        "apiVersion": VERSION,
        "metadata": { "creationTimestamp": rfc3339(now) },
        "status": { "userInfo": { "username": user.username, "groups": user.groups, "extra": user.extra } },
    });
    Ok(Response::json(201, &review))
}

fn may_i(request: &ApiRequest, user: &User) -> Result<Response, Response> {
    const KIND: &str = "SelfSubjectAccessReview";
    const VERSION: &str = "authorization.k8s.io/v1";
    let review = body::object(request, Some(protobuf::ACCESS_REVIEW), KIND, VERSION)?;
    let spec = &review["spec"];
    let allowed = match (spec.get("resourceAttributes"), spec.get("nonResourceAttributes")) {
        (Some(wanted), _) => {
            let wanted = Attributes::deserialize(wanted).map_err(|error| body::unreadable(KIND, error))?;
            allowed(user, &wanted)
        }
        (None, Some(path)) => {
            let text = |key: &str| path[key].as_str().unwrap_or_default();
            authorize_path(user, text("verb"), text("path")).is_ok()
        }
        (None, None) => {
            let message = "exactly one of resourceAttributes and nonResourceAttributes must be given";
            return Err(status::bad_request(message));
        }
    };
    let review =
        json!({ "kind": KIND, "apiVersion": VERSION, "metadata": {}, "spec": {}, "status": { "allowed": allowed } });
    Ok(Response::json(201, &review))
}
