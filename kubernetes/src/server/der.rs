//! Just enough DER to write a certificate (X.690; RFC 5280 §4.1).
//!
//! Names and keys are copied from a request byte for byte, which no certificate builder at hand can do: a subject with
//! two organisations or a key on a curve its signature algorithm does not suggest must come out as it went in.

use perennial::UnixTime;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// Object identifiers, already encoded (the content octets).
pub(super) mod oid {
    pub(in super::super) const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    pub(in super::super) const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
    pub(in super::super) const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x0e];
    pub(in super::super) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
    pub(in super::super) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
    pub(in super::super) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
    pub(in super::super) const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];
    pub(in super::super) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
    pub(in super::super) const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
    pub(in super::super) const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
    pub(in super::super) const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    pub(in super::super) const ECDSA_WITH_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
    pub(in super::super) const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    pub(in super::super) const SHA256_WITH_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
}

/// `NULL`, the parameters of the RSA signature algorithms.
pub(super) const NULL: &[u8] = &[0x05, 0x00];

/// Any value: tag, definite length, content.
pub(super) fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    out.push(tag);
    if content.len() < 0x80 {
        out.push(content.len() as u8);
    } else {
        let length = content.len().to_be_bytes();
        let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
        out.push(0x80 | length.len() as u8);
        out.extend_from_slice(length);
    }
    out.extend_from_slice(content);
    out
}

pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(SEQUENCE, &parts.concat())
}

/// A context-specific, constructed value: `[number]`, explicit.
pub(super) fn explicit(number: u8, content: &[u8]) -> Vec<u8> {
    value(0xa0 | number, content)
}

/// A context-specific, primitive value: `[number]`, implicit.
pub(super) fn implicit(number: u8, content: &[u8]) -> Vec<u8> {
    value(0x80 | number, content)
}

pub(super) fn boolean(truth: bool) -> Vec<u8> {
    value(BOOLEAN, &[if truth { 0xff } else { 0x00 }])
}

/// A positive integer, big-endian; the highest bit must be clear and the first byte not zero.
pub(super) fn integer(bytes: &[u8]) -> Vec<u8> {
    value(INTEGER, bytes)
}

pub(super) fn object_identifier(encoded: &[u8]) -> Vec<u8> {
    value(OBJECT_IDENTIFIER, encoded)
}

pub(super) fn octet_string(bytes: &[u8]) -> Vec<u8> {
    value(OCTET_STRING, bytes)
}

/// A string of whole octets.
pub(super) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    value(BIT_STRING, &[&[0], bytes].concat())
}

/// Named bits, the first one the highest; trailing zeros are left out, as DER demands.
pub(super) fn named_bits(bits: u8) -> Vec<u8> {
    value(BIT_STRING, &[bits.trailing_zeros().min(7) as u8, bits])
}

/// `UTCTime` through 2049, `GeneralizedTime` from 2050 on; fractions of a second are dropped (RFC 5280 §4.1.2.5).
pub(super) fn time(at: UnixTime) -> Vec<u8> {
    let (year, month, day, hour, minute, second, _) = at.civil();
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    if (1950..2050).contains(&year) {
        value(UTC_TIME, format!("{:02}{rest}", year % 100).as_bytes())
    } else {
        value(GENERALIZED_TIME, format!("{year:04}{rest}").as_bytes())
    }
}

/// A distinguished name: organisations, then the common name.
pub(super) fn name(common_name: &str, organizations: &[&str]) -> Vec<u8> {
    let attribute = |kind: &[u8], text: &str| {
        value(SET, &sequence(&[&object_identifier(kind), &value(UTF8_STRING, text.as_bytes())]))
    };
    let mut attributes: Vec<Vec<u8>> =
        organizations.iter().map(|organization| attribute(oid::ORGANIZATION, organization)).collect();
    attributes.push(attribute(oid::COMMON_NAME, common_name));
    value(SEQUENCE, &attributes.concat())
}

/// A certificate extension (RFC 5280 §4.2).
pub(super) fn extension(id: &[u8], critical: bool, content: &[u8]) -> Vec<u8> {
    let critical = if critical { boolean(true) } else { Vec::new() };
    sequence(&[&object_identifier(id), &critical, &octet_string(content)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_short_form_up_to_127_and_the_fewest_octets_beyond() {
        assert_eq!(value(4, &[0; 127])[..2], [4, 127]);
        assert_eq!(value(4, &[0; 128])[..3], [4, 0x81, 128]);
        assert_eq!(value(4, &[0; 256])[..4], [4, 0x82, 1, 0]);
    }

    #[test]
    fn times_change_their_form_in_2050() {
        assert_eq!(time(UnixTime::from_secs(2_524_607_999)), value(UTC_TIME, b"491231235959Z"));
        assert_eq!(time(UnixTime::from_secs(2_524_608_000)), value(GENERALIZED_TIME, b"20500101000000Z"));
    }

    #[test]
    fn named_bits_say_how_many_bits_are_unused() {
        assert_eq!(named_bits(0b1000_0000), [3, 2, 7, 0b1000_0000]);
        assert_eq!(named_bits(0b1010_0000), [3, 2, 5, 0b1010_0000]);
        assert_eq!(named_bits(0b0000_0110), [3, 2, 1, 0b0000_0110]);
    }
}
