//! The reviews behind `kubectl auth whoami` and `kubectl auth can-i`.

use perennial::UnixTime;
use serde::Deserialize;
use serde_json::{Value, json};

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
    body::object::<Value>(request, protobuf::REVIEW, KIND, VERSION)?;
    let review = json!({
        "kind": KIND,
        "apiVersion": VERSION,
        "metadata": { "creationTimestamp": rfc3339(now) },
        "status": { "userInfo": { "username": user.username, "groups": user.groups, "extra": user.extra } },
    });
    Ok(Response::json(201, &review))
}

#[derive(Deserialize)]
struct AccessReview {
    spec: AccessSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccessSpec {
    resource_attributes: Option<ResourceAttributes>,
    non_resource_attributes: Option<NonResourceAttributes>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResourceAttributes {
    verb: String,
    group: String,
    resource: String,
    subresource: String,
    name: String,
}

#[derive(Deserialize)]
struct NonResourceAttributes {
    verb: String,
    path: String,
}

fn may_i(request: &ApiRequest, user: &User) -> Result<Response, Response> {
    const KIND: &str = "SelfSubjectAccessReview";
    const VERSION: &str = "authorization.k8s.io/v1";
    let AccessReview { spec } = body::object(request, protobuf::ACCESS_REVIEW, KIND, VERSION)?;
    let allowed = match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(ResourceAttributes { verb, group, resource, subresource, name }), _) => {
            allowed(user, &Attributes { verb, group, resource, subresource, name })
        }
        (None, Some(path)) => authorize_path(user, &path.verb, &path.path).is_ok(),
        (None, None) => {
            let message = "exactly one of resourceAttributes and nonResourceAttributes must be given";
            return Err(status::bad_request(message));
        }
    };
    let review =
        json!({ "kind": KIND, "apiVersion": VERSION, "metadata": {}, "spec": {}, "status": { "allowed": allowed } });
    Ok(Response::json(201, &review))
}
