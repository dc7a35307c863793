//! Parses X.509 certificates, and describes the parser's errors for people.

use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::nom;
use x509_parser::prelude::FromDer;

/// Parses `der` as exactly one certificate.
///
/// # Errors
/// The problem as a clause: `der` is not a certificate, or bytes follow the certificate.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(format!("{} bytes follow the certificate", rest.len())),
        Err(error) => Err(parser_reason(&error).to_owned()),
    }
}

/// Describes the parser's error for a certificate or a CSR, as a clause.
pub(crate) fn reason(error: &X509Error) -> &'static str {
    match error {
        X509Error::InvalidVersion => "its version is not one of X.509",
        X509Error::InvalidSerial => "its serial number is malformed",
        X509Error::InvalidAlgorithmIdentifier => "an algorithm identifier is malformed",
        X509Error::InvalidX509Name => "its subject or issuer is malformed",
        X509Error::InvalidDate => "a date is malformed",
        X509Error::InvalidSPKI => "its public key is malformed",
        X509Error::InvalidSubjectUID | X509Error::InvalidIssuerUID => "a unique identifier is malformed",
        X509Error::InvalidExtensions => "an extension is malformed",
        X509Error::InvalidAttributes => "an attribute is malformed",
        X509Error::DuplicateExtensions => "it has the same extension twice",
        X509Error::DuplicateAttributes => "it has the same attribute twice",
        X509Error::InvalidSignatureValue => "its signature is malformed",
        X509Error::SignatureVerificationError => "its signature does not verify",
        X509Error::SignatureUnsupportedAlgorithm => "its signature algorithm is not supported",
        X509Error::InvalidNumber => "a number is malformed",
        X509Error::Generic
        | X509Error::InvalidTbsCertificate
        | X509Error::InvalidUserCertificate
        | X509Error::InvalidCertificate
        | X509Error::Der(_)
        | X509Error::NomError(_) => "it is not valid DER: cut short, damaged, or no certificate at all",
    }
}

/// Describes an error of the parser as a clause: unwraps the parser's outer error type, and calls [`reason`].
pub(crate) fn parser_reason(error: &nom::Err<X509Error>) -> &'static str {
    match error {
        nom::Err::Error(error) | nom::Err::Failure(error) => reason(error),
        nom::Err::Incomplete(_) => "it is cut short",
    }
}
