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
    body::object(request, protobuf::REVIEW, KIND, VERSION)?;
    let review = json!({
        "kind": KIND,
        "apiVersion": VERSION,
        "metadata": { "creationTimestamp": rfc3339(now) },
        "status": { "userInfo": { "username": user.username, "groups": user.groups, "extra": user.extra } },
    });
    Ok(Response::json(201, &review))
}

#[derive(Deserialize)]
struct AccessReview<'a> {
    #[serde(borrow)]
    spec: AccessSpec<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccessSpec<'a> {
    #[serde(borrow)]
    resource_attributes: Option<Attributes<'a>>,
    #[serde(borrow)]
    non_resource_attributes: Option<NonResourceAttributes<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NonResourceAttributes<'a> {
    verb: &'a str,
    path: &'a str,
}

fn may_i(request: &ApiRequest, user: &User) -> Result<Response, Response> {
    const KIND: &str = "SelfSubjectAccessReview";
    const VERSION: &str = "authorization.k8s.io/v1";
    let review = body::object(request, protobuf::ACCESS_REVIEW, KIND, VERSION)?;
    let review = AccessReview::deserialize(&review).map_err(|error| body::unreadable(KIND, error))?;
    let allowed = match (&review.spec.resource_attributes, &review.spec.non_resource_attributes) {
        (Some(wanted), _) => allowed(user, wanted),
        (None, Some(path)) => authorize_path(user, path.verb, path.path).is_ok(),
        (None, None) => {
            let message = "exactly one of resourceAttributes and nonResourceAttributes must be given";
            return Err(status::bad_request(message));
        }
    };
    let review =
        json!({ "kind": KIND, "apiVersion": VERSION, "metadata": {}, "spec": {}, "status": { "allowed": allowed } });
    Ok(Response::json(201, &review))
}
