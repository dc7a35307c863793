//! Writes the parts that CSRs and certificates have in common: subject, extensions and signature.

use std::net::IpAddr;

use perennial::Template;
use yasna::models::ObjectIdentifier;
use yasna::tags::{TAG_PRINTABLESTRING, TAG_UTF8STRING};
use yasna::{DERWriter, Tag, construct_der};

use crate::{AlternativeNames, KeyPair};

const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
const SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
const ORGANIZATIONAL_UNIT: &[u64] = &[2, 5, 4, 11];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];

pub(crate) fn oid(writer: DERWriter<'_>, components: &[u64]) {
    writer.write_oid(&ObjectIdentifier::from_slice(components));
}

/// Writes the subject of `template` in Go's order: an RDN with the organizations, one with the organizational units,
/// the common name, the serial number. Empty parts are left out.
pub(crate) fn subject(template: &Template) -> Vec<u8> {
    let single = |value| Some(value).filter(|value: &&str| !value.is_empty()).into_iter().collect();
    let rdns = [
        (ORGANIZATION, template.organizations().collect::<Vec<_>>()),
        (ORGANIZATIONAL_UNIT, template.organizational_units().collect()),
        (COMMON_NAME, single(template.common_name())),
        (SERIAL_NUMBER, single(template.serial_number())),
    ];
    construct_der(|writer| {
        writer.write_sequence(|names| {
            for (kind, values) in rdns.iter().filter(|(_, values)| !values.is_empty()) {
                names.next().write_set_of(|rdn| values.iter().for_each(|value| attribute(rdn.next(), kind, value)));
            }
        });
    })
}

fn attribute(writer: DERWriter<'_>, kind: &[u64], value: &str) {
    let printable = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte));
    let tag = if printable { TAG_PRINTABLESTRING } else { TAG_UTF8STRING };
    writer.write_sequence(|attribute| {
        oid(attribute.next(), kind);
        // Not `write_printable_string`: it panics on the question mark, which is printable (X.680 §41.4).
        attribute.next().write_tagged_implicit(tag, |writer| writer.write_bytes(value.as_bytes()));
    });
}

impl AlternativeNames {
    /// Encodes the names as the extension subjectAltName, critical if `subject` is empty. Writes the kinds of names in
    /// Go's order. `None` if there are no names.
    pub(crate) fn extension(&self, subject: &[u8]) -> Option<Vec<u8>> {
        const EMPTY_SEQUENCE: &[u8] = &[0x30, 0];

        let names = construct_der(|writer| {
            writer.write_sequence(|names| {
                let mut add =
                    |tag, bytes: &[u8]| names.next().write_tagged_implicit(Tag::context(tag), |w| w.write_bytes(bytes));
                self.dns_names.iter().for_each(|name| add(2, name.as_bytes()));
                self.emails.iter().for_each(|email| add(1, email.as_bytes()));
                self.ip_addresses.iter().for_each(|address| match address {
                    IpAddr::V4(address) => add(7, &address.octets()),
                    IpAddr::V6(address) => add(7, &address.octets()),
                });
                self.uris.iter().for_each(|uri| add(6, uri.as_bytes()));
            });
        });
        if names == EMPTY_SEQUENCE {
            return None;
        }
        // RFC 5280 §4.2.1.6: critical if the subject is empty.
        let critical = subject == EMPTY_SEQUENCE;
        Some(construct_der(|writer| extension(writer, SUBJECT_ALT_NAME, critical, |value| value.write_der(&names))))
    }
}

/// Writes one extension (RFC 5280 §4.2).
pub(crate) fn extension(writer: DERWriter<'_>, kind: &[u64], critical: bool, value: impl FnOnce(DERWriter<'_>)) {
    writer.write_sequence(|extension| {
        oid(extension.next(), kind);
        if critical {
            extension.next().write_bool(true);
        }
        extension.next().write_bytes(&construct_der(value));
    });
}

/// Signs `message` with `key`, and encodes message, signature algorithm and signature in one sequence, as in a CSR or a
/// certificate.
pub(crate) fn signed(message: &[u8], key: &KeyPair) -> Result<Vec<u8>, rustls::Error> {
    let signature = key.sign(message)?;
    Ok(construct_der(|writer| {
        writer.write_sequence(|signed| {
            signed.next().write_der(message);
            algorithm(signed.next(), key);
            signed.next().write_bitvec_bytes(&signature, 8 * signature.len());
        });
    }))
}

/// Writes the `AlgorithmIdentifier` of the signatures that `key` makes.
pub(crate) fn algorithm(writer: DERWriter<'_>, key: &KeyPair) {
    writer.write_sequence(|identifier| identifier.next().write_der(&key.signature_algorithm()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn organizations_are_written_in_one_sorted_rdn() {
        let written = subject(&Template::new("c").with_organizations(["aa", "b"]));
        let name = b"\x30\x23\x31\x15\x30\x08\x06\x03\x55\x04\x0a\x13\x01b\x30\x09\x06\x03\x55\x04\x0a\x13\x02aa\
                     \x31\x0a\x30\x08\x06\x03\x55\x04\x03\x13\x01c";
        assert_eq!(written, name);
    }

    #[test]
    fn attribute_beyond_printablestring_is_written_as_utf8string() {
        let tag = |name| subject(&Template::new(name))[11];
        assert_eq!(["a b", "?", "x.y-z:1"].map(tag), [0x13; 3]);
        assert_eq!(["a*b", "a_b", "\u{fc}"].map(tag), [0x0c; 3]);
    }
}
