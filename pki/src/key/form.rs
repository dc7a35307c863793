//! Recognizes the encoding of a private key by its DER, and names the kind of an unsupported key. Reads the key in
//! place, without copies.

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use x509_parser::oid_registry::Oid;
use zeroize::Zeroizing;

use super::{KeyEncoding, KeyError};
use crate::der::{BIT_STRING, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, take};
use crate::describe;

/// The context tag `[0]` of the curve in a SEC 1 key (RFC 5915 §3).
const CURVE: u8 = 0xa0;
/// The context tag `[1]` of the public key in a SEC 1 key (RFC 5915 §3).
const PUBLIC_KEY: u8 = 0xa1;

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// The curves on which the crypto provider can sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    #[cfg(feature = "aws-lc-rs")]
    P521,
}

impl Curve {
    const ALL: &'static [Self] = &[
        Self::P256,
        Self::P384,
        #[cfg(feature = "aws-lc-rs")]
        Self::P521,
    ];

    /// The curve with this content of an object identifier.
    fn of(oid: &[u8]) -> Option<Self> {
        Self::ALL.iter().copied().find(|curve| curve.oid() == oid)
    }

    /// The content of the curve's object identifier.
    const fn oid(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            Self::P384 => &[0x2b, 0x81, 0x04, 0x00, 0x22],
            #[cfg(feature = "aws-lc-rs")]
            Self::P521 => &[0x2b, 0x81, 0x04, 0x00, 0x23],
        }
    }

    /// The size in bytes of one coordinate of a point, and of a private key.
    const fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            #[cfg(feature = "aws-lc-rs")]
            Self::P521 => 66,
        }
    }

    /// The point in this DER `SubjectPublicKeyInfo`, if the point is uncompressed and on this curve.
    pub(super) fn point(self, public_key_der: &[u8]) -> Option<&[u8]> {
        let (curve, point) = curve_and_point(public_key_der)?;
        (curve == self.oid() && self.is_whole(point)).then_some(point)
    }

    /// True if `point` is uncompressed: 04 and both coordinates (SEC 1 §2.3.3), the only form that TLS peers and the
    /// crypto provider read.
    fn is_whole(self, point: &[u8]) -> bool {
        point.len() == 1 + 2 * self.size() && point[0] == 4
    }
}

/// True if the public key in this DER `SubjectPublicKeyInfo` is a compressed point: 02 or 03 and one coordinate.
pub(crate) fn has_compressed_point(public_key_der: &[u8]) -> bool {
    curve_and_point(public_key_der).is_some_and(|(_, point)| matches!(point.first(), Some(2 | 3)))
}

/// The curve (the content of its object identifier) and the point of an EC public key (RFC 5480 §2); `None` for other
/// keys.
fn curve_and_point(public_key_der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (key, _) = take(SEQUENCE, public_key_der)?;
    let (algorithm, key) = take(SEQUENCE, key)?;
    let (_, parameters) = take(OBJECT_IDENTIFIER, algorithm)?;
    let (curve, _) = take(OBJECT_IDENTIFIER, parameters)?;
    Some((curve, take(BIT_STRING, key)?.0.strip_prefix(&[0])?))
}

/// Recognizes PKCS#1, SEC 1 or PKCS#8 by the DER of a private key. The PEM label does not matter.
///
/// # Errors
/// [`KeyError::Encrypted`] for an encrypted PKCS#8 key; [`KeyError::Malformed`] for anything else.
pub(super) fn typed(der: Vec<u8>) -> Result<PrivateKeyDer<'static>, KeyError> {
    // Behind the version, PKCS#1 has the modulus, SEC 1 the private key, PKCS#8 the algorithm.
    let inner = take(SEQUENCE, &der).and_then(|(key, _)| take(INTEGER, key)).and_then(|(_, rest)| rest.first());
    match inner {
        Some(&INTEGER) => Ok(PrivatePkcs1KeyDer::from(der).into()),
        Some(&OCTET_STRING) => Ok(PrivateSec1KeyDer::from(der).into()),
        Some(&SEQUENCE) => Ok(PrivatePkcs8KeyDer::from(der).into()),
        _ => {
            let der = Zeroizing::new(der);
            // EncryptedPrivateKeyInfo (RFC 5208 §6): the algorithm first, then the encrypted key.
            let encrypted = take(SEQUENCE, &der).and_then(|(key, _)| take(SEQUENCE, key)?.1.first().copied());
            Err(if encrypted == Some(OCTET_STRING) { KeyError::Encrypted } else { KeyError::Malformed })
        }
    }
}

/// The error for a key that the crypto provider refused. Names the kind, curve or size if the DER shows that perennial
/// does not support it; otherwise [`KeyError::Malformed`].
pub(super) fn refusal(der: &PrivateKeyDer<'_>) -> KeyError {
    let reason = match der {
        PrivateKeyDer::Pkcs1(key) => rsa(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => sec1(key.secret_sec1_der()),
        PrivateKeyDer::Pkcs8(key) => pkcs8(key.secret_pkcs8_der()),
        _ => None,
    };
    reason.unwrap_or(KeyError::Malformed)
}

/// The error for a PKCS#8 key (RFC 5208 §5) of an unsupported kind, curve or size; `None` if all are supported.
fn pkcs8(der: &[u8]) -> Option<KeyError> {
    let (algorithm, key) = pkcs8_parts(der)?;
    match take(OBJECT_IDENTIFIER, algorithm)? {
        (RSA, _) => rsa(key),
        (EC, parameters) => unsupported_curve(parameters),
        (ED25519, _) => None,
        (other, _) => Some(KeyError::Unsupported { kind: kind(other) }),
    }
}

/// The content of the algorithm identifier in a PKCS#8 key, and the encoding of the key inside; `None` if `der` is not
/// PKCS#8.
fn pkcs8_parts(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (key, _) = take(SEQUENCE, der)?;
    let (_, key) = take(INTEGER, key)?;
    let (algorithm, key) = take(SEQUENCE, key)?;
    Some((algorithm, take(OCTET_STRING, key)?.0))
}

/// The error for a SEC 1 key (RFC 5915 §3) on an unsupported curve; `None` if the curve is supported or omitted.
fn sec1(der: &[u8]) -> Option<KeyError> {
    unsupported_curve(sec1_parts(der)?.parameters?)
}

/// The parts of a SEC 1 key: the private key, and optionally the curve and the public key.
struct Sec1<'a> {
    scalar: &'a [u8],
    parameters: Option<&'a [u8]>,
    point: Option<&'a [u8]>,
}

fn sec1_parts(der: &[u8]) -> Option<Sec1<'_>> {
    let (key, _) = take(SEQUENCE, der)?;
    let (_, key) = take(INTEGER, key)?;
    let (scalar, mut rest) = take(OCTET_STRING, key)?;
    let mut optional = |tag| {
        let (content, behind) = take(tag, rest)?;
        rest = behind;
        Some(content)
    };
    let parameters = optional(CURVE);
    let point = optional(PUBLIC_KEY).and_then(|bits| take(BIT_STRING, bits)?.0.strip_prefix(&[0]));
    Some(Sec1 { scalar, parameters, point })
}

/// The error for an RSA key (RFC 8017 §A.1.2) whose modulus has an unsupported length; `None` for 2048 to 4096 bits.
fn rsa(der: &[u8]) -> Option<KeyError> {
    let (key, _) = take(SEQUENCE, der)?;
    let (_, key) = take(INTEGER, key)?;
    let (modulus, _) = take(INTEGER, key)?;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeros)?;
    let bits = (modulus.len() - zeros) * 8 - first.leading_zeros() as usize;
    (!(2048..=4096).contains(&bits)).then_some(KeyError::RsaSize { bits })
}

fn unsupported_curve(parameters: &[u8]) -> Option<KeyError> {
    if parameters.first() == Some(&SEQUENCE) {
        return Some(KeyError::Unsupported { kind: "ECDSA with explicit curve parameters".to_owned() });
    }
    let (identifier, _) = take(OBJECT_IDENTIFIER, parameters)?;
    Curve::of(identifier).is_none().then(|| KeyError::Curve { curve: describe::curve(&Oid::new(identifier.into())) })
}

/// The name of a key's algorithm, from the content of its object identifier.
fn kind(identifier: &[u8]) -> String {
    let identifier = Oid::new(identifier.into()).to_id_string();
    let name = match identifier.as_str() {
        "1.2.840.113549.1.1.10" => "RSA-PSS",
        "1.2.840.10040.4.1" => "DSA",
        "1.3.101.110" => "X25519",
        "1.3.101.111" => "X448",
        "1.3.101.113" => "Ed448",
        other => other,
    };
    name.to_owned()
}

/// An EC key that must be encoded anew, since the crypto provider does not read its encoding: the public key is missing
/// or compressed, or the leading zeros of the private key are omitted, as by old versions of openssl.
pub(super) struct Incomplete<'a> {
    pub(super) curve: Curve,
    scalar: &'a [u8],
    /// The public key in the encoding, an uncompressed point; `None` if the encoding has no such point.
    pub(super) point: Option<&'a [u8]>,
}

impl<'a> Incomplete<'a> {
    pub(super) fn of(der: &'a PrivateKeyDer<'_>) -> Option<Self> {
        let Sec1 { scalar, parameters, point } = match der {
            PrivateKeyDer::Sec1(key) => sec1_parts(key.secret_sec1_der())?,
            PrivateKeyDer::Pkcs8(key) => {
                let (algorithm, key) = pkcs8_parts(key.secret_pkcs8_der())?;
                let (EC, parameters) = take(OBJECT_IDENTIFIER, algorithm)? else { return None };
                Sec1 { parameters: Some(parameters), ..sec1_parts(key)? }
            }
            _ => return None,
        };
        let (identifier, _) = take(OBJECT_IDENTIFIER, parameters?)?;
        let curve = Curve::of(identifier)?;
        let zeros = scalar.len().saturating_sub(curve.size());
        // If a scalar is longer than the curve's size, the bytes before must be zeros, as padding.
        let (zeros, scalar) = scalar.split_at(zeros);
        let fits = zeros.iter().all(|byte| *byte == 0);
        fits.then_some(Self { curve, scalar, point: point.filter(|point| curve.is_whole(point)) })
    }

    /// Encodes the key with its public key, `point`, as Go and openssl do (RFC 5915 §3).
    pub(super) fn complete(&self, point: &[u8]) -> PrivateKeyDer<'static> {
        let (size, oid) = (self.curve.size(), self.curve.oid());
        let bits = 1 + point.len();
        let public_key = header_length(bits) + bits;
        // Version, then header and content of private key, curve and public key.
        let content = 3 + 2 + size + 4 + oid.len() + header_length(public_key) + public_key;
        // Room for all of it at once: a buffer that grows leaves copies of itself behind.
        let mut key = Vec::with_capacity(header_length(content) + content);
        write_header(&mut key, SEQUENCE, content);
        key.extend_from_slice(&[INTEGER, 1, 1]);
        write_header(&mut key, OCTET_STRING, size);
        key.resize(key.len() + size - self.scalar.len(), 0);
        key.extend_from_slice(self.scalar);
        write_header(&mut key, CURVE, 2 + oid.len());
        write_header(&mut key, OBJECT_IDENTIFIER, oid.len());
        key.extend_from_slice(oid);
        write_header(&mut key, PUBLIC_KEY, public_key);
        write_header(&mut key, BIT_STRING, bits);
        key.push(0);
        key.extend_from_slice(point);
        PrivateSec1KeyDer::from(key).into()
    }
}

/// Encodes the key `der` anew; `None` if keys of its kind have no such encoding. `public_key_der` is its public key.
pub(super) fn encoded(
    der: &PrivateKeyDer<'_>,
    encoding: KeyEncoding,
    public_key_der: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let copy = |der: &[u8]| Some(Zeroizing::new(der.to_vec()));
    match (encoding, der) {
        (KeyEncoding::Pkcs8, PrivateKeyDer::Pkcs8(key)) => copy(key.secret_pkcs8_der()),
        (KeyEncoding::Pkcs8, PrivateKeyDer::Pkcs1(key)) => Some(wrapped(RSA, &[0x05, 0], key.secret_pkcs1_der())),
        (KeyEncoding::Pkcs8, PrivateKeyDer::Sec1(key)) => {
            let key = key.secret_sec1_der();
            Some(wrapped(EC, sec1_parts(key)?.parameters?, key))
        }
        (KeyEncoding::Pkcs1, PrivateKeyDer::Pkcs1(key)) => copy(key.secret_pkcs1_der()),
        (KeyEncoding::Pkcs1, PrivateKeyDer::Pkcs8(key)) => {
            let (algorithm, key) = pkcs8_parts(key.secret_pkcs8_der())?;
            let (RSA, _) = take(OBJECT_IDENTIFIER, algorithm)? else { return None };
            copy(key)
        }
        (KeyEncoding::Sec1, der) => {
            // Not the key inside of PKCS#8: that one may lack the curve, without which Go and openssl read no SEC 1 key.
            let incomplete = Incomplete::of(der)?;
            let whole = Zeroizing::new(incomplete.complete(incomplete.curve.point(public_key_der)?));
            copy(whole.secret_der())
        }
        _ => None,
    }
}

/// Encodes a key as PKCS#8 version 1 (RFC 5208 §5). `algorithm` is the content of its object identifier.
fn wrapped(algorithm: &[u8], parameters: &[u8], key: &[u8]) -> Zeroizing<Vec<u8>> {
    let identifier = 2 + algorithm.len() + parameters.len();
    let content = 3 + 2 + identifier + header_length(key.len()) + key.len();
    // Room for all of it at once: a buffer that grows leaves copies of itself behind.
    let mut der = Zeroizing::new(Vec::with_capacity(header_length(content) + content));
    write_header(&mut der, SEQUENCE, content);
    der.extend_from_slice(&[INTEGER, 1, 0]);
    write_header(&mut der, SEQUENCE, identifier);
    write_header(&mut der, OBJECT_IDENTIFIER, algorithm.len());
    der.extend_from_slice(algorithm);
    der.extend_from_slice(parameters);
    write_header(&mut der, OCTET_STRING, key.len());
    der.extend_from_slice(key);
    der
}

/// The number of bytes of a tag and of a length below 64 KiB; keys are shorter.
const fn header_length(content: usize) -> usize {
    match content {
        0..0x80 => 2,
        0x80..0x100 => 3,
        _ => 4,
    }
}

fn write_header(der: &mut Vec<u8>, tag: u8, content: usize) {
    let [.., high, low] = content.to_be_bytes();
    match header_length(content) {
        2 => der.extend_from_slice(&[tag, low]),
        3 => der.extend_from_slice(&[tag, 0x81, low]),
        _ => der.extend_from_slice(&[tag, 0x82, high, low]),
    }
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
    fn refusal_names_rsa_size_only_if_unsupported() {
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
    fn key_cut_at_any_byte_is_malformed() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_der();
        for length in 0..key.len() {
            let cut = PrivateKeyDer::Pkcs8(key[..length].to_vec().into());
            assert_eq!(refusal(&cut), KeyError::Malformed, "{length}");
        }
    }
}
