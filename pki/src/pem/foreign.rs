//! Recognizing input that is not PEM, so that the message can name the command that converts it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::PemError;
use crate::der;

/// Recognizes the kind of an input without the wanted blocks, as an error that names the kind and the command to
/// convert it. `labels` are those of the blocks that the input has. `None` if the kind is unknown.
pub(super) fn recognize(input: &[u8], labels: &[&str]) -> Option<PemError> {
    let foreign = |(what, command)| PemError::Foreign { what, command };
    if let Some(found) = labels.iter().find_map(|label| labelled(label)) {
        return Some(foreign(found));
    }
    if !labels.is_empty() {
        return None;
    }
    if is_utf16(input) {
        return Some(foreign(("text in UTF-16", "iconv -f UTF-16 -t UTF-8 FILE > FILE.pem")));
    }
    if let Some(kind) = kind(input) {
        return Some(foreign(match kind {
            Kind::Certificate => ("a certificate in DER", "openssl x509 -inform DER -in FILE -out FILE.pem"),
            Kind::Key => ("a private key in DER", "openssl pkey -inform DER -in FILE -out FILE.pem"),
            Kind::Pkcs7 => ("PKCS#7 in DER", "openssl pkcs7 -inform DER -in FILE -print_certs -out FILE.pem"),
            Kind::Pkcs12 => ("PKCS#12", "openssl pkcs12 -in FILE -nodes -out FILE.pem"),
        }));
    }
    // 128 digits of base64 are 96 bytes, enough to see the kind.
    let beginning: Vec<u8> = input.iter().filter(|byte| !byte.is_ascii_whitespace()).take(4 * 32).copied().collect();
    let beginning = STANDARD.decode(&beginning[..beginning.len() / 4 * 4]).ok()?;
    Some(foreign(match kind(&beginning)? {
        Kind::Certificate => (
            "base64 of a certificate without PEM boundaries",
            "openssl base64 -d -A -in FILE | openssl x509 -inform DER -out FILE.pem",
        ),
        Kind::Key => (
            "base64 of a private key without PEM boundaries",
            "openssl base64 -d -A -in FILE | openssl pkey -inform DER -out FILE.pem",
        ),
        Kind::Pkcs7 => (
            "base64 of PKCS#7 without PEM boundaries",
            "openssl base64 -d -A -in FILE | openssl pkcs7 -inform DER -print_certs -out FILE.pem",
        ),
        Kind::Pkcs12 => ("base64 of PKCS#12", "openssl base64 -d -A -in FILE | openssl pkcs12 -nodes -out FILE.pem"),
    }))
}

/// The name and the converting command of a PEM label for certificates in a form that TLS libraries do not read.
fn labelled(label: &str) -> Option<(&'static str, &'static str)> {
    match label {
        "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => {
            Some(("a certificate in a form that only openssl reads", "openssl x509 -in FILE -out FILE.pem"))
        }
        "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => {
            Some(("a PKCS#7 bundle", "openssl pkcs7 -in FILE -print_certs -out FILE.pem"))
        }
        _ => None,
    }
}

/// True for UTF-16: a byte order mark, or the first two hyphens of PEM with a zero byte beside each.
fn is_utf16(input: &[u8]) -> bool {
    matches!(input, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'-', 0, b'-', 0, ..] | [0, b'-', 0, b'-', ..])
}

enum Kind {
    Certificate,
    Key,
    Pkcs7,
    Pkcs12,
}

/// The kind of a DER value. Its end may be missing.
fn kind(input: &[u8]) -> Option<Kind> {
    let content = der::enter(der::SEQUENCE, input)?;
    match *content.first()? {
        der::OBJECT_IDENTIFIER => Some(Kind::Pkcs7),
        // A certificate begins with what is signed, which begins with its version or serial number.
        der::SEQUENCE => {
            let signed = der::enter(der::SEQUENCE, content)?;
            matches!(signed.first()?, 0xa0 | &der::INTEGER).then_some(Kind::Certificate)
        }
        der::INTEGER => match der::take(der::INTEGER, content)? {
            ([3], _) => Some(Kind::Pkcs12),
            ([0 | 1], rest) => {
                let next = *rest.first()?;
                matches!(next, der::INTEGER | der::SEQUENCE | der::OCTET_STRING).then_some(Kind::Key)
            }
            _ => None,
        },
        _ => None,
    }
}
