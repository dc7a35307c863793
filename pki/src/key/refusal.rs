//! Why a private key was not taken, found out from its outer layers. The key itself is looked at in place, not copied.

use rustls::pki_types::PrivateKeyDer;
use x509_parser::oid_registry::Oid;

use super::KeyError;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// `[0]`, where SEC 1 has the curve.
const CURVE: u8 = 0xa0;

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const OTHER_CURVES: [(&[u8], &str); 3] = [
    (&[0x2b, 0x81, 0x04, 0x00, 0x21], "P-224"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], "P-521"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x0a], "secp256k1"),
];

/// What is wrong with a key that the provider did not take.
pub(super) fn refusal(der: &PrivateKeyDer<'_>) -> KeyError {
    let reason = match der {
        PrivateKeyDer::Pkcs1(key) => rsa(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => sec1(key.secret_sec1_der()),
        PrivateKeyDer::Pkcs8(key) => pkcs8(key.secret_pkcs8_der()),
        _ => Some(KeyError::Unsupported),
    };
    reason.unwrap_or(KeyError::Malformed)
}

/// RFC 5208 §5.
fn pkcs8(der: &[u8]) -> Option<KeyError> {
    let (key, _) = take(SEQUENCE, der)?;
    let (_, key) = take(INTEGER, key)?;
    let (algorithm, key) = take(SEQUENCE, key)?;
    let (key, _) = take(OCTET_STRING, key)?;
    match take(OBJECT_IDENTIFIER, algorithm)? {
        (RSA, _) => rsa(key),
        (EC, parameters) => curve(parameters),
        (ED25519, _) => None,
        _ => Some(KeyError::Unsupported),
    }
}

/// RFC 5915 §3.
fn sec1(der: &[u8]) -> Option<KeyError> {
    let (key, _) = take(SEQUENCE, der)?;
    let (_, key) = take(INTEGER, key)?;
    let (_, key) = take(OCTET_STRING, key)?;
    curve(take(CURVE, key)?.0)
}

/// RFC 8017 §A.1.2: the modulus comes first.
fn rsa(der: &[u8]) -> Option<KeyError> {
    let (key, _) = take(SEQUENCE, der)?;
    let (_, key) = take(INTEGER, key)?;
    let (modulus, _) = take(INTEGER, key)?;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeros)?;
    let bits = (modulus.len() - zeros) * 8 - first.leading_zeros() as usize;
    (!(2048..=4096).contains(&bits)).then_some(KeyError::RsaSize { bits })
}

fn curve(parameters: &[u8]) -> Option<KeyError> {
    let (identifier, _) = take(OBJECT_IDENTIFIER, parameters)?;
    if identifier == P256 || identifier == P384 {
        return None;
    }
    let known = OTHER_CURVES.into_iter().find(|(other, _)| *other == identifier);
    let curve = known.map_or_else(|| Oid::new(identifier.into()).to_id_string(), |(_, name)| name.to_owned());
    Some(KeyError::Curve { curve })
}

/// The content of the DER value at the front, which has this tag, and what follows it.
fn take(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // Longer than 64 KiB is no key.
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    (found == tag).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer};
    use yasna::construct_der;

    use super::*;

    fn modulus(bits: usize) -> Vec<u8> {
        let mut modulus = vec![0xff; bits.div_ceil(8)];
        modulus[0] >>= bits.next_multiple_of(8) - bits;
        modulus
    }

    #[test]
    fn an_rsa_key_is_refused_for_its_size_only_if_it_has_another_than_is_supported() {
        for (bits, refused) in [(2047, true), (2048, false), (4096, false), (4097, true)] {
            let der = construct_der(|writer| {
                writer.write_sequence(|key| {
                    key.next().write_u8(0);
                    key.next().write_bigint_bytes(&modulus(bits), true);
                });
            });
            let expected = if refused { KeyError::RsaSize { bits } } else { KeyError::Malformed };
            assert_eq!(refusal(&PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der))), expected);
        }
    }

    #[test]
    fn what_is_cut_anywhere_is_malformed() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_der();
        for length in 0..key.len() {
            let cut = PrivateKeyDer::Pkcs8(key[..length].to_vec().into());
            assert_eq!(refusal(&cut), KeyError::Malformed, "{length}");
        }
    }
}
