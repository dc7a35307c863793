//! Errors of a connection to an API server.

use std::fmt;

/// Why there is no usable answer of an API server. The server may have processed the request, except where a variant
/// documents that nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// No CA is configured to verify the server. Nothing was sent.
    #[error("no CA is configured that could verify the server's certificate; set the cluster's certificate-authority")]
    NoRoots,
    /// TLS cannot be set up on this host, such as with an unreadable CA file. Nothing was sent.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
    /// No TCP connection could be made. Nothing was sent.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The proxy did not open a tunnel to the server, or cannot be reached.
    #[error("{0}")]
    Proxy(String),
    /// The TLS handshake, the proxy's answer or the server's answer was not complete in time. Contains the missing
    /// part.
    #[error("timed out waiting for {0}")]
    TimedOut(&'static str),
    /// The server closed the connection without an answer.
    #[error("the server closed the connection without an answer")]
    Closed,
    /// The connection broke: an I/O error occurred, or the connection ended in the middle of an answer.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The server's certificate is signed by none of the configured CAs.
    #[error("the server's certificate is not trusted: {0}")]
    UnknownIssuer(String),
    /// The server's certificate is not trusted for a reason other than its issuer, such as its name or its validity.
    #[error("the server's certificate is not trusted: {0}")]
    Untrusted(String),
    /// The server refused the client's certificate, or requires one and the client presented none. Contains
    /// the name of the TLS alert.
    #[error("the server refused the client certificate, or the lack of one (TLS alert {0})")]
    CertificateRefused(String),
    /// TLS failed for a reason other than a certificate.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The request cannot be encoded, or the answer is not proper HTTP/1.1 or not the expected JSON.
    #[error("{0}")]
    Http(String),
    /// The answer is too long or compressed. Repeating the request would give the same answer.
    #[error("{0}")]
    Unusable(String),
}

impl ExchangeError {
    pub(super) fn setup(error: impl fmt::Display) -> Self {
        Self::Setup(error.to_string())
    }

    /// An error for a response that breaks the rules of HTTP/1.1.
    pub(super) fn improper(why: &str) -> Self {
        Self::Http(format!("the answer is not proper HTTP/1.1: {why}"))
    }

    pub(super) fn too_long(what: &str) -> Self {
        Self::Unusable(format!("the {what} is longer than this client accepts"))
    }
}
