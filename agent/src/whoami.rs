//! Checks whether an API server accepts a client certificate.

use std::sync::Arc;

use perennial_kubernetes::client::{Call, ExchangeError, Limits, Request, Response};
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::Credential;
use perennial_rotation::Identity;
use perennial_std::{Cancel, drive};
use serde_json::json;

/// Sends a SelfSubjectReview over a new connection that presents this certificate. Returns the server's response, of
/// any status.
///
/// # Errors
/// If there is no response: the connection, the TLS handshake or the HTTP exchange failed, or one of `limits` was
/// reached.
pub(crate) fn review_self(
    cluster: &Arc<Cluster>,
    credential: &Arc<Credential>,
    limits: Limits,
) -> Result<Response, ExchangeError> {
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
    let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review.to_string().into_bytes());
    let identity = Identity::Certificate(credential.clone());
    let call = Call::new(request, cluster.clone(), identity, limits);
    // `drive` returns `None` only if the call is cancelled, which does not happen here.
    drive(call, &Cancel::default(), |_| {}).unwrap_or(Err(ExchangeError::Closed))
}
