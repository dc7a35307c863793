//! [`Identity`]: what a request for a certificate authenticates with.

use std::sync::Arc;

use perennial_pki::Credential;
use zeroize::Zeroizing;

/// A bearer token. Wiped from memory on drop, and never shown by `Debug`.
#[derive(Clone, derive_more::Debug)]
#[debug("Token(…)")]
pub struct Token(Zeroizing<String>);

impl Token {
    /// Makes a token from the text of a file, without leading and trailing white space.
    ///
    /// # Errors
    /// [`InvalidToken`] if the rest is empty or contains anything but visible ASCII.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The text of the token, for the `Authorization` header of a request. Keep this text out of logs and errors.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// The error for a text that is no bearer token: empty, or with characters other than visible ASCII. Does not contain
/// the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bearer token is empty or holds spaces, line breaks or other characters no token has")]
pub struct InvalidToken;

/// Identity that a request authenticates with. `Debug` shows its kind and the fingerprint of a certificate; never a
/// secret.
#[derive(Clone, derive_more::Debug)]
pub enum Identity {
    /// No credential (`system:anonymous` in Kubernetes).
    Anonymous,
    /// A bearer token, for example a bootstrap token.
    #[debug("{_0:?}")]
    Token(Token),
    /// A client certificate and its key.
    #[debug("Certificate({})", _0.chain().certificate().fingerprint)]
    Certificate(Arc<Credential>),
    /// A client certificate and a bearer token, as client-go sends them: the certificate in TLS, the token in each
    /// request. An API server identifies the client by the certificate if it trusts the certificate's CA.
    #[debug("CertificateAndToken({}, {_1:?})", _0.chain().certificate().fingerprint)]
    CertificateAndToken(Arc<Credential>, Token),
}

impl Identity {
    /// The client certificate to present in TLS, if there is one.
    pub const fn certificate(&self) -> Option<&Arc<Credential>> {
        match self {
            Self::Certificate(credential) | Self::CertificateAndToken(credential, _) => Some(credential),
            Self::Anonymous | Self::Token(_) => None,
        }
    }

    /// The bearer token to send with each request, if there is one.
    pub const fn token(&self) -> Option<&Token> {
        match self {
            Self::Token(token) | Self::CertificateAndToken(_, token) => Some(token),
            Self::Anonymous | Self::Certificate(_) => None,
        }
    }

    /// The kind of the identity as a phrase for people, such as `a bearer token`.
    pub const fn describe(&self) -> &'static str {
        match self {
            Self::Anonymous => "no credential",
            Self::Token(_) => "a bearer token",
            Self::Certificate(_) => "a client certificate",
            Self::CertificateAndToken(..) => "a client certificate and a bearer token",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_one_ascii_word_and_hidden_by_debug() {
        assert_eq!(Token::new("\tabc.def\n").unwrap().reveal(), "abc.def");
        assert_eq!(format!("{:?}", Token::new("abc.def").unwrap()), "Token(…)");
        for text in ["", " \n", "two words", "line\r\nbreak", "schlüssel"] {
            assert!(Token::new(text).is_err(), "{text:?}");
        }
    }
}
