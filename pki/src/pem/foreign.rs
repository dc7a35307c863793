//! Recognizes the format of input that is not PEM, so that the error can name the command that converts the input.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::PemError;
use crate::der;

/// Recognizes the format of an input that lacks the wanted PEM blocks. Returns an error with the format and the command
/// that converts the input; `None` if the format is unknown. `labels` are the labels of the blocks in the input.
pub(super) fn recognize(input: &[u8], labels: &[&str]) -> Option<PemError> {
    let foreign = |what: String, command: String| Some(PemError::Foreign { what, command });
    if let Some((what, command)) = labels.iter().find_map(|label| labelled(label)) {
        return foreign(what.to_owned(), format!("openssl {command} -out FILE.pem"));
    }
    if !labels.is_empty() {
        return None;
    }
    if is_utf16(input) {
        return foreign("text in UTF-16".to_owned(), "iconv -f UTF-16 -t UTF-8 FILE > FILE.pem".to_owned());
    }
    if let Some(Kind { name, command, options }) = kind(input) {
        return foreign(format!("{name} in DER"), format!("openssl {command} -in FILE{options} -out FILE.pem"));
    }
    // 128 digits of base64 are 96 bytes, enough to see the kind.
    let beginning: Vec<u8> = input.iter().filter(|byte| !byte.is_ascii_whitespace()).take(4 * 32).copied().collect();
    let beginning = STANDARD.decode(&beginning[..beginning.len() / 4 * 4]).ok()?;
    let Kind { name, command, options } = kind(&beginning)?;
    foreign(
        format!("base64 of {name} without PEM boundaries"),
        format!("openssl base64 -d -A -in FILE | openssl {command}{options} -out FILE.pem"),
    )
}

/// Recognizes certificates in a format that TLS libraries do not read, by their PEM label. Returns a name for the
/// format, and the openssl command that converts it.
fn labelled(label: &str) -> Option<(&'static str, &'static str)> {
    match label {
        "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => {
            Some(("a certificate in a form that only openssl reads", "x509 -in FILE"))
        }
        "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => Some(("a PKCS#7 bundle", "pkcs7 -in FILE -print_certs")),
        _ => None,
    }
}

/// True if the input is UTF-16: it begins with a byte order mark, or with two hyphens, each with a zero byte beside it.
fn is_utf16(input: &[u8]) -> bool {
    matches!(input, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'-', 0, b'-', 0, ..] | [0, b'-', 0, b'-', ..])
}

/// A kind of DER value, such as a certificate, and the openssl command that converts it to PEM.
struct Kind {
    name: &'static str,
    command: &'static str,
    options: &'static str,
}

const CERTIFICATE: Kind = Kind { name: "a certificate", command: "x509 -inform DER", options: "" };
const KEY: Kind = Kind { name: "a private key", command: "pkey -inform DER", options: "" };
const PKCS7: Kind = Kind { name: "PKCS#7", command: "pkcs7 -inform DER", options: " -print_certs" };
const PKCS12: Kind = Kind { name: "PKCS#12", command: "pkcs12", options: " -nodes" };

/// Recognizes the kind of a DER value, even if its end is missing; `None` if the kind is unknown.
fn kind(input: &[u8]) -> Option<Kind> {
    let content = der::enter(der::SEQUENCE, input)?;
    match *content.first()? {
        der::OBJECT_IDENTIFIER => Some(PKCS7),
        // A certificate begins with what is signed, which begins with its version or serial number.
        der::SEQUENCE => {
            let signed = der::enter(der::SEQUENCE, content)?;
            matches!(signed.first()?, 0xa0 | &der::INTEGER).then_some(CERTIFICATE)
        }
        der::INTEGER => match der::take(der::INTEGER, content)? {
            ([3], _) => Some(PKCS12),
            ([0 | 1], rest) => {
                let next = *rest.first()?;
                matches!(next, der::INTEGER | der::SEQUENCE | der::OCTET_STRING).then_some(KEY)
            }
            _ => None,
        },
        _ => None,
    }
}
