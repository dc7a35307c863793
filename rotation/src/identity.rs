//! The identity that a request for a certificate is authenticated with.

use std::fmt;
use std::sync::Arc;

use perennial_pki::Credential;
use zeroize::Zeroizing;

/// A bearer token. Wiped on drop, never shown.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// A token, as files hold it: white space around it does not count.
    ///
    /// # Errors
    /// [`InvalidToken`] if what is left is empty or not visible ASCII.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The token itself, for a request's header. Keep it out of logs and errors.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The text is empty, or holds characters that no bearer token has. Does not show the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bearer token is empty or holds spaces, line breaks or other characters no token has")]
pub struct InvalidToken;

/// Identity that a request authenticates with.
#[derive(Clone)]
pub enum Identity {
    /// No credential (`system:anonymous`).
    Anonymous,
    /// With a bearer token, for example a bootstrap token.
    Token(Token),
    /// With a client certificate.
    Certificate(Arc<Credential>),
    /// Authenticates with both, as client-go does: the certificate in TLS, the token in each request. An API server uses
    /// the certificate if it trusts the certificate's CA.
    CertificateAndToken(Arc<Credential>, Token),
}

impl Identity {
    /// The certificate that is shown in TLS.
    pub const fn certificate(&self) -> Option<&Arc<Credential>> {
        match self {
            Self::Certificate(credential) | Self::CertificateAndToken(credential, _) => Some(credential),
            Self::Anonymous | Self::Token(_) => None,
        }
    }

    /// The bearer token that is sent with each request.
    pub const fn token(&self) -> Option<&Token> {
        match self {
            Self::Token(token) | Self::CertificateAndToken(_, token) => Some(token),
            Self::Anonymous | Self::Certificate(_) => None,
        }
    }

    /// For people: what the server was shown.
    pub const fn describe(&self) -> &'static str {
        match self {
            Self::Anonymous => "no credential",
            Self::Token(_) => "a bearer token",
            Self::Certificate(_) => "a client certificate",
            Self::CertificateAndToken(..) => "a client certificate and a bearer token",
        }
    }
}

/// The kind of credential and, for a certificate, which one; never a secret.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Token(token) => token.fmt(f),
            Self::Certificate(credential) => {
                write!(f, "Certificate({})", credential.chain().certificate().fingerprint)
            }
            Self::CertificateAndToken(credential, token) => {
                write!(f, "CertificateAndToken({}, {token:?})", credential.chain().certificate().fingerprint)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_not_shown() {
        assert_eq!(Token::new("\tabc.def\n").unwrap().reveal(), "abc.def");
        assert_eq!(format!("{:?}", Token::new("abc.def").unwrap()), "Token(…)");
        for text in ["", " \n", "two words", "line\r\nbreak", "schlüssel"] {
            assert!(Token::new(text).is_err(), "{text:?}");
        }
    }
}
