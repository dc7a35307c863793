//! SelfSubjectReview of the Kubernetes API: the server answers with the identity of its client.

use std::error::Error;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
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

/// Asks the API server at this URL, such as `https://127.0.0.1:6443`, over a new connection, and returns the
/// [`fingerprint`] in the answer. Blocks the thread.
///
/// # Errors
/// The connection fails, a side refuses the certificate of the other, or the answer names no certificate.
pub fn ask(url: &str, config: &Arc<ClientConfig>) -> Result<[String; 1], Box<dyn Error + Send + Sync>> {
    let address = url.strip_prefix("https://").ok_or("the URL does not begin with https://")?;
    let (host, _) = address.rsplit_once(':').ok_or("the URL has no port")?;
    let tls = ClientConnection::new(config.clone(), host.to_owned().try_into()?)?;
    let tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
    let (mut stream, mut answer) = (StreamOwned::new(tls, tcp), String::new());
    write!(
        stream,
        "POST {PATH} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    )?;
    match stream.read_to_string(&mut answer) {
        // The server may end the connection without a close_notify. An incomplete body is no JSON.
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error.into()),
        _ => {}
    }
    let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP response: {answer}"))?;
    fingerprint(body.as_bytes()).map(|seen| [seen]).map_err(|error| error.to_string().into())
}
