//! Checks for encoding errors that x509-parser accepts, and that Go's crypto/x509, openssl or webpki refuse.
//!
//! A certificate that Go, openssl or webpki cannot read is useless to a node: its peers use these libraries, and API
//! servers are written in Go.

use std::collections::BTreeSet;
use std::slice;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::OID_X509_EXT_EXTENDED_KEY_USAGE;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::der::{self, SEQUENCE, take};
use crate::{describe, x509};

/// Checks that Go, openssl and webpki, as TLS peers, can read this leaf.
///
/// # Errors
/// The problem with the certificate, as a clause.
pub(crate) fn leaf(certificate: &CertificateDer<'_>) -> Result<(), String> {
    any(certificate)?;
    // webpki requires more than Go: version 3, no unknown critical extension, no unique identifiers.
    EndEntityCert::try_from(certificate)
        .map(drop)
        .map_err(|error| describe::webpki(&error, slice::from_ref(certificate)))
}

/// Checks that Go and openssl can read this certificate, which may be a leaf or an issuer.
///
/// # Errors
/// The problem with the certificate, as a clause.
pub(crate) fn any(certificate: &[u8]) -> Result<(), String> {
    go(certificate)?;
    // Checked beyond the rules of Go, which accepts dates without seconds and an empty list of usages.
    dates(certificate, true)?;
    let parsed = x509::parse(certificate)?;
    let is_empty = |value: &[u8]| value == [SEQUENCE, 0];
    match parsed.extensions().iter().find(|it| it.oid == OID_X509_EXT_EXTENDED_KEY_USAGE) {
        Some(usage) if is_empty(usage.value) => Err("its extended key usage is empty".to_owned()),
        _ => Ok(()),
    }
}

/// Checks that Go's crypto/x509 can read this certificate.
///
/// # Errors
/// The problem with the certificate, as a clause.
pub(crate) fn go(certificate: &[u8]) -> Result<(), String> {
    der::check(certificate)?;
    let parsed = x509::parse(certificate)?;
    if parsed.version.0 > 2 {
        return Err(format!("its version is {}, and X.509 has versions 1 to 3", u64::from(parsed.version.0) + 1));
    }
    if parsed.raw_serial().first().is_some_and(|first| first & 0x80 != 0) {
        return Err("its serial number is negative".to_owned());
    }
    // RFC 5280 §4.1.1.2.
    if parsed.signature_algorithm != parsed.tbs_certificate.signature {
        return Err("it names two different signature algorithms, inside and outside of what is signed".to_owned());
    }
    name("issuer", parsed.issuer())?;
    name("subject", parsed.subject())?;
    dates(certificate, false)?;
    extensions(&parsed)
}

/// Checks that each value of a name has a string type that Go reads, and only the characters that Go allows in that
/// type (`parseASN1String` in crypto/x509).
fn name(whose: &str, name: &X509Name<'_>) -> Result<(), String> {
    for attribute in name.iter_attributes() {
        let attribute: &AttributeTypeAndValue<'_> = attribute;
        let value = attribute.attr_value();
        let is_good = match value.tag() {
            Tag::PrintableString => value.data.iter().all(|byte| is_printable(*byte)),
            Tag::Utf8String => str::from_utf8(value.data).is_ok(),
            Tag::Ia5String => value.data.is_ascii(),
            Tag::NumericString => value.data.iter().all(|byte| byte.is_ascii_digit() || *byte == b' '),
            Tag::BmpString => value.data.len() % 2 == 0,
            Tag::TeletexString => true,
            other => {
                let kind = attribute.attr_type();
                return Err(format!(
                    "the {whose} has a value (of {kind}) that is not text: its DER tag is {}",
                    other.0
                ));
            }
        };
        if !is_good {
            return Err(format!(
                "the {whose} has a text (of {}) with characters that its type excludes",
                attribute.attr_type()
            ));
        }
    }
    Ok(())
}

/// True for the bytes that Go accepts in a PrintableString: also the asterisk and the ampersand, which X.680 excludes.
fn is_printable(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b" '()+,-./:=?*&".contains(&byte)
}

/// Checks that notBefore and notAfter have the form of RFC 5280 §4.1.2.5. If `strict` is false, a `UTCTime` without
/// seconds passes, too, as in Go.
fn dates(certificate: &[u8], strict: bool) -> Result<(), &'static str> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let is_date = |(tag, date): (u8, &[u8])| {
        let length = match tag {
            UTC_TIME => 13,
            GENERALIZED_TIME => 15,
            _ => return false,
        };
        let digits = date.strip_suffix(b"Z").unwrap_or_default();
        let fits = date.len() == length || !strict && tag == UTC_TIME && date.len() == length - 2;
        fits && digits.len() + 1 == date.len() && digits.iter().all(u8::is_ascii_digit)
    };
    let dates = validity(certificate).ok_or("its validity is malformed")?;
    let good = dates.into_iter().all(is_date);
    if good { Ok(()) } else { Err("a date is not in the form YYMMDDhhmmssZ or YYYYMMDDhhmmssZ") }
}

/// The tag and the content of notBefore, then those of notAfter; `None` if the certificate is malformed.
fn validity(certificate: &[u8]) -> Option<[(u8, &[u8]); 2]> {
    let (content, _) = take(SEQUENCE, certificate)?;
    let (mut to_be_signed, _) = take(SEQUENCE, content)?;
    // The version is optional (RFC 5280 §4.1).
    if let Some((_, behind)) = take(0xa0, to_be_signed) {
        to_be_signed = behind;
    }
    // The serial number, the algorithm and the issuer stand before the validity.
    for _ in 0..3 {
        to_be_signed = der::next(to_be_signed)?.2;
    }
    let (validity, _) = take(SEQUENCE, to_be_signed)?;
    let (tag, not_before, rest) = der::next(validity)?;
    let (other_tag, not_after, _) = der::next(rest)?;
    Some([(tag, not_before), (other_tag, not_after)])
}

fn extensions(certificate: &X509Certificate<'_>) -> Result<(), String> {
    /// The first bytes of the object identifiers of X.509's own extensions (2.5.29), whose values must be DER. The
    /// values of other extensions need not be DER.
    const STANDARD: [u8; 2] = [0x55, 0x1d];
    let mut seen = BTreeSet::new();
    for extension in certificate.extensions() {
        let id = extension.oid.to_id_string();
        if extension.oid.as_bytes().starts_with(&STANDARD) {
            der::check(extension.value).map_err(|why| format!("in extension {id}, {why}"))?;
        }
        if let ParsedExtension::ParseError { .. } = extension.parsed_extension() {
            return Err(format!("extension {id} is malformed"));
        }
        if !seen.insert(id) {
            return Err(format!("it has extension {} twice", extension.oid.to_id_string()));
        }
    }
    Ok(())
}
