//! [`Issuer`]: issues certificates (RFC 5280 §4).

use perennial::{Template, UnixTime, Validity};
use x509_parser::extensions::ParsedExtension;
use yasna::tags::{TAG_GENERALIZEDTIME, TAG_UTCTIME};
use yasna::{DERWriter, DERWriterSeq, Tag, construct_der};

use crate::{Chain, ChainError, Credential, KeyPair, KeyUsage, RequestFacts, Usage, sha256, write, x509};

/// A certificate authority that issues certificates: a CA certificate and its key.
#[derive(derive_more::Debug)]
#[debug("Issuer {{ credential: {credential:?}, .. }}")]
pub struct Issuer {
    credential: Credential,
    subject: Vec<u8>,
    key_identifier: Option<Vec<u8>>,
}

/// The parts of a certificate that the issuer decides. Subject, alternative names and key come from the CSR.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The serial number: big-endian, positive, at most 20 octets, and never the same twice for one issuer.
    pub serial: &'a [u8],
    /// The validity, in whole seconds: fractions are dropped.
    pub validity: Validity,
    /// The key usages. If empty, the certificate has no key usage extension.
    pub key_usages: &'a [KeyUsage],
    /// The extended key usages. If empty, the certificate has no extended key usage extension.
    pub extended_key_usages: &'a [Usage],
}

const KEY_CERT_SIGN: u8 = 0b0000_0100;
const CRL_SIGN: u8 = 0b0000_0010;

const SUBJECT_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 14];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const AUTHORITY_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 35];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];

impl Issuer {
    /// Makes an issuer from the credential of a CA.
    ///
    /// # Errors
    /// [`IssueError::NotAnAuthority`] if the certificate is no CA certificate, or its key usage lacks keyCertSign.
    pub fn new(credential: Credential) -> Result<Self, IssueError> {
        let der = credential.chain().der();
        let own = der.first().ok_or(IssueError::Certificate(ChainError::Empty))?;
        let own = x509::parse(own)
            .map_err(|reason| IssueError::Certificate(ChainError::Certificate { position: 1, reason }))?;
        // A certificate without a key usage extension does not restrict its key.
        let key_usage = own.key_usage().ok().flatten();
        if !own.is_ca() || key_usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(IssueError::NotAnAuthority);
        }
        let subject = own.subject().as_raw().to_vec();
        let key_identifier = own.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
            _ => None,
        });
        Ok(Self { credential, subject, key_identifier })
    }

    /// The CA's own certificate and key.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Issues a certificate for the subject, the alternative names and the key of `request`. The returned chain
    /// consists of this certificate alone, without the chain of the CA.
    ///
    /// Ignores the other extensions of the request: the usages are those of `terms`, and the certificate is never a CA
    /// certificate.
    ///
    /// # Errors
    /// [`IssueError::Signing`] if the key does not sign; [`IssueError::Certificate`] if the result cannot be read back,
    /// such as for a time beyond year 9999.
    pub fn issue(&self, request: &RequestFacts, terms: &Terms<'_>) -> Result<Chain, IssueError> {
        let body = Body {
            serial: terms.serial,
            issuer: &self.subject,
            validity: terms.validity,
            subject: &request.subject_der,
            public_key: &request.public_key_der,
        };
        body.sign(self.credential.key(), |extensions| {
            if !terms.key_usages.is_empty() {
                let bits = terms.key_usages.iter().fold(0, |bits, usage| bits | usage.bit());
                write::extension(extensions.next(), KEY_USAGE, true, |value| named_bits(value, bits));
            }
            write::extension(extensions.next(), BASIC_CONSTRAINTS, true, |value| value.write_sequence(|_| ()));
            if !terms.extended_key_usages.is_empty() {
                write::extension(extensions.next(), EXTENDED_KEY_USAGE, false, |value| {
                    value.write_sequence(|usages| {
                        terms.extended_key_usages.iter().for_each(|usage| write::oid(usages.next(), usage.oid()));
                    });
                });
            }
            if let Some(identifier) = &self.key_identifier {
                write::extension(extensions.next(), AUTHORITY_KEY_IDENTIFIER, false, |value| {
                    value.write_sequence(|parts| {
                        parts.next().write_tagged_implicit(Tag::context(0), |writer| writer.write_bytes(identifier));
                    });
                });
            }
            if let Some(names) = request.names.extension(&request.subject_der) {
                extensions.next().write_der(&names);
            }
        })
    }
}

/// Issues the certificate of a new CA: `key` is the key of the CA, and signs the certificate. `serial` is as in
/// [`Terms::serial`].
///
/// # Errors
/// [`IssueError::Signing`] if the key does not sign; [`IssueError::Certificate`] if the result cannot be read back,
/// such as for a time beyond year 9999.
pub fn self_signed(common_name: &str, key: &KeyPair, serial: &[u8], validity: Validity) -> Result<Chain, IssueError> {
    let name = write::subject(&Template::new(common_name));
    let public_key = key.public_key_der();
    let body = Body { serial, issuer: &name, validity, subject: &name, public_key };
    body.sign(key, |extensions| {
        write::extension(extensions.next(), BASIC_CONSTRAINTS, true, |value| {
            value.write_sequence(|constraints| constraints.next().write_bool(true));
        });
        write::extension(extensions.next(), KEY_USAGE, true, |value| named_bits(value, KEY_CERT_SIGN | CRL_SIGN));
        // 160 bits of SHA-256 (RFC 7093 §2), over the whole SubjectPublicKeyInfo.
        let identifier = &sha256(public_key)[..20];
        write::extension(extensions.next(), SUBJECT_KEY_IDENTIFIER, false, |value| value.write_bytes(identifier));
    })
}

/// The fields of a certificate to sign, without its extensions.
struct Body<'a> {
    serial: &'a [u8],
    issuer: &'a [u8],
    validity: Validity,
    subject: &'a [u8],
    public_key: &'a [u8],
}

impl Body<'_> {
    /// Signs these fields and the extensions as a version 3 certificate.
    fn sign(&self, key: &KeyPair, extensions: impl FnOnce(&mut DERWriterSeq<'_>)) -> Result<Chain, IssueError> {
        let to_be_signed = construct_der(|writer| {
            writer.write_sequence(|body| {
                body.next().write_tagged(Tag::context(0), |version| version.write_u8(2));
                body.next().write_bigint_bytes(self.serial, true);
                write::algorithm(body.next(), key);
                body.next().write_der(self.issuer);
                body.next().write_sequence(|validity| {
                    time(validity.next(), self.validity.not_before());
                    time(validity.next(), self.validity.not_after());
                });
                body.next().write_der(self.subject);
                body.next().write_der(self.public_key);
                body.next().write_tagged(Tag::context(3), |writer| writer.write_sequence(extensions));
            });
        });
        let certificate = write::signed(&to_be_signed, key)?;
        // Reading the result back refuses values that X.509 cannot hold, such as a five-digit year.
        Ok(Chain::from_der(vec![certificate.into()])?)
    }
}

/// Writes a time: `UTCTime` until 2049, `GeneralizedTime` from 2050 on, without fractions of a second (RFC 5280
/// §4.1.2.5).
fn time(writer: DERWriter<'_>, at: UnixTime) {
    let (year, month, day, hour, minute, second, _) = at.civil();
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    let (tag, text) = if (1950..2050).contains(&year) {
        (TAG_UTCTIME, format!("{:02}{rest}", year % 100))
    } else {
        (TAG_GENERALIZEDTIME, format!("{year:04}{rest}"))
    };
    writer.write_tagged_implicit(tag, |writer| writer.write_bytes(text.as_bytes()));
}

/// Writes a bit string of named bits. The highest bit of `bits` is the first named bit. Omits trailing zeros, as DER
/// demands.
fn named_bits(writer: DERWriter<'_>, bits: u8) {
    writer.write_bitvec_bytes(&[bits], 8 - bits.trailing_zeros() as usize);
}

/// Error of a certificate that cannot be issued.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The issuer's certificate does not allow its key to sign certificates: it is no CA certificate, or its key usage
    /// lacks keyCertSign.
    #[error("this certificate may not sign others; use the certificate of a CA (CA:TRUE, keyCertSign)")]
    NotAnAuthority,
    /// The CA certificate, or the new certificate, cannot be read.
    #[error("{0}")]
    Certificate(#[from] ChainError),
    /// The issuer's key could not sign the certificate.
    #[error("the certificate could not be signed: {}", crate::describe(.0, &[]))]
    Signing(#[from] rustls::Error),
    /// An interim certificate cannot be made; contains the reason, as a clause.
    #[error("cannot create the self-signed interim certificate: {0}")]
    Interim(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_from_2050_is_encoded_as_generalizedtime() {
        let written = |seconds| construct_der(|writer| time(writer, UnixTime::from_secs(seconds)));
        assert_eq!(written(2_524_607_999), b"\x17\x0d491231235959Z");
        assert_eq!(written(2_524_608_000), b"\x18\x0f20500101000000Z");
    }

    #[test]
    fn named_bits_encode_the_number_of_unused_bits() {
        for (bits, unused) in [(0b1000_0000, 7), (0b1010_0000, 5), (0b0000_0110, 1)] {
            assert_eq!(construct_der(|writer| named_bits(writer, bits)), [3, 2, unused, bits]);
        }
    }
}
