//! Asks an API server whom it takes us for.

use std::sync::Arc;

use perennial_kubernetes::client::{Call, ExchangeError, Limits, Request, Response};
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::Credential;
use perennial_rotation::Identity;
use perennial_std::{Cancel, drive};
use serde_json::json;

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
