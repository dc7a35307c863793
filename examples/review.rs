//! SelfSubjectReview of the Kubernetes API: the server answers with the identity of its client.

use std::error::Error;

use serde_json::Value;

/// Path to which a client posts [`BODY`].
pub const PATH: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// A review in JSON.
pub const BODY: &str = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;

/// The attribute of a user that names the client certificate of the connection.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Returns the fingerprint of the client certificate that the server saw: its SHA-256 in lower-case hexadecimal.
///
/// # Errors
/// The answer is no review, or the client presented no certificate.
pub fn fingerprint(answer: &[u8]) -> Result<String, Box<dyn Error>> {
    let review: Value = serde_json::from_slice(answer)?;
    let id = review["status"]["userInfo"]["extra"][CREDENTIAL_ID][0].as_str();
    let fingerprint = id.and_then(|id| id.strip_prefix("X509SHA256="));
    Ok(fingerprint.ok_or_else(|| format!("the answer names no certificate: {review}"))?.to_owned())
}
