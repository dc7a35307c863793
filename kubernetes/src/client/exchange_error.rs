//! Why a connection to an API server came to nothing.

use std::fmt;

/// Why an exchange came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExchangeError {
    /// No CA is configured to check the server against.
    NoRoots,
    /// TLS cannot be set up on this side.
    Setup(String),
    /// No connection could be made.
    Connect(String),
    /// The proxy in between did not let us through.
    Proxy(String),
    /// The server did not answer in time.
    TimedOut(&'static str),
    /// The server closed the connection without an answer.
    Closed,
    /// The connection broke.
    Broken(String),
    /// The server's certificate is signed by none of the configured CAs.
    UnknownIssuer(String),
    /// The server's certificate is not to be trusted for another reason.
    Untrusted(String),
    /// The server refused the certificate it was shown, or wants one and was shown none.
    CertificateRefused(String),
    /// TLS failed otherwise.
    Tls(String),
    /// HTTP failed: what came is not HTTP.
    Http(String),
    /// A whole answer, or the head of one, that perennial cannot use: too long, or coded. The next would be the same.
    Unusable(String),
}

impl ExchangeError {
    pub(crate) fn setup(error: impl fmt::Display) -> Self {
        Self::Setup(error.to_string())
    }
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoots => f.write_str(
                "no CA is configured to check the server's certificate against; set the cluster's certificate-authority",
            ),
            Self::Setup(why) => write!(f, "TLS cannot be set up: {why}"),
            Self::Connect(why) => write!(f, "cannot connect: {why}"),
            Self::Proxy(why) => f.write_str(why),
            Self::TimedOut(what) => write!(f, "timed out waiting for {what}"),
            Self::Closed => f.write_str("the server closed the connection without an answer"),
            Self::Broken(why) => write!(f, "the connection broke: {why}"),
            Self::UnknownIssuer(why) | Self::Untrusted(why) => write!(f, "the server's certificate is not trusted: {why}"),
            Self::CertificateRefused(alert) => write!(f, "the server refused our certificate (TLS alert {alert})"),
            Self::Tls(why) => write!(f, "TLS failed: {why}"),
            Self::Http(why) | Self::Unusable(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ExchangeError {}
