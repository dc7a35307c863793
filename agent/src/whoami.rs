//! Asks an API server whom it takes us for.

use std::sync::Arc;

use perennial::Certificate;
use perennial_kubernetes::client::{Call, ExchangeError, Limits, Request, Response};
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::Credential;
use perennial_rotation::Identity;
use perennial_std::{Cancel, drive};
use serde_json::{Value, json};

/// Whom a server takes us for.
#[derive(Debug)]
pub(crate) struct UserInfo {
    pub(crate) username: String,
    pub(crate) groups: Vec<String>,
    /// `X509SHA256=…`, from servers that tell.
    credential_id: Option<String>,
}

/// Sends a SelfSubjectReview over a new connection with this certificate, and returns the answer.
pub(crate) fn ask(
    cluster: &Arc<Cluster>,
    credential: &Arc<Credential>,
    limits: Limits,
) -> Result<Response, ExchangeError> {
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
    let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review.to_string().into_bytes());
    let identity = Identity::Certificate(credential.clone());
    let call = Call::new(request, cluster.clone(), identity, limits);
    // Nobody cancels it.
    drive(call, &Cancel::default(), |_| {}).unwrap_or(Err(ExchangeError::Closed))
}

/// The user that the server takes the holder of this certificate for.
pub(crate) fn who_am_i(cluster: &Arc<Cluster>, credential: &Arc<Credential>) -> Result<UserInfo, String> {
    let answer = ask(cluster, credential, Limits::default()).map_err(|error| error.to_string())?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status != 201 {
        let message = body["message"].as_str().unwrap_or("no reason given");
        return Err(format!("the server answered {}: {message}", answer.status));
    }
    let user = &body["status"]["userInfo"];
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    Ok(UserInfo {
        username: user["username"].as_str().ok_or("the server's answer names no user")?.to_owned(),
        groups: texts(&user["groups"]),
        credential_id: texts(&user["extra"]["authentication.kubernetes.io/credential-id"]).pop(),
    })
}

impl UserInfo {
    /// Whether this is the subject of `certificate`, known by that certificate and no other.
    pub(crate) fn is(&self, certificate: &Certificate) -> Result<(), String> {
        if self.username != certificate.common_name {
            return Err(format!("the server takes us for {:?}, not {:?}", self.username, certificate.common_name));
        }
        if let Some(missing) = certificate.organizations.iter().find(|group| !self.groups.contains(group)) {
            return Err(format!("the server does not count us among {missing:?}"));
        }
        match &self.credential_id {
            Some(id) if *id != format!("X509SHA256={:x}", certificate.fingerprint) => {
                Err("the server knows us by another certificate than the one just issued".into())
            }
            Some(_) | None => Ok(()),
        }
    }
}
