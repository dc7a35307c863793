//! Writing PKCS#10 requests (RFC 2986).

use std::fmt;
use std::net::IpAddr;

use perennial::Template;

use crate::{KeyPair, PemError, der, pem};

/// A signed certification request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// One PEM block `CERTIFICATE REQUEST`.
    pub pem: String,
    /// The same in DER.
    pub der: Vec<u8>,
}

/// A request for the identity in `template`, signed with `key`.
///
/// Laid out as Go's `crypto/x509` does it, which is what Kubernetes signers see from kubelets: the
/// organisations before the common name and in one RDN, DNS names before IP addresses, no extension
/// at all if there are no alternative names. Empty parts of the template are left out.
///
/// # Errors
/// [`RequestError::DnsName`] for a DNS name X.509 cannot carry; [`RequestError::Signing`] if the key fails.
pub fn certificate_request(template: &Template, key: &KeyPair) -> Result<CertificateRequest, RequestError> {
    let subject = subject(template);
    let attributes = attributes(template)?;
    let info = der::sequence(&[der::INTEGER_0, &subject, key.public_key_der(), &attributes]);
    let (algorithm, signature) = key.sign(&info).map_err(RequestError::Signing)?;
    let der = der::sequence(&[&info, &der::sequence(&[&algorithm]), &der::bit_string(&signature)]);
    Ok(CertificateRequest { pem: pem::encode(pem::CERTIFICATE_REQUEST, &der).to_string(), der })
}

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];

fn subject(template: &Template) -> Vec<u8> {
    let organizations: Vec<_> = template.organizations().iter().map(|name| attribute(ORGANIZATION, name)).collect();
    let common_name = Some(template.common_name()).filter(|name| !name.is_empty());
    let common_name: Vec<_> = common_name.into_iter().map(|name| attribute(COMMON_NAME, name)).collect();
    let names: Vec<_> =
        [organizations, common_name].into_iter().filter(|rdn| !rdn.is_empty()).map(der::set_of).collect();
    der::sequence(&[&names.concat()])
}

fn attribute(kind: &[u8], value: &str) -> Vec<u8> {
    let printable = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte));
    let tag = if printable { der::PRINTABLE_STRING } else { der::UTF8_STRING };
    der::sequence(&[&der::element(der::OBJECT_IDENTIFIER, &[kind]), &der::element(tag, &[value.as_bytes()])])
}

/// The attributes of the request: none, or the one that asks for extensions.
fn attributes(template: &Template) -> Result<Vec<u8>, RequestError> {
    let names = alternative_names(template)?;
    if names.is_empty() {
        return Ok(der::element(der::CONTEXT_0, &[]));
    }
    // RFC 5280 §4.2.1.6: critical when it is all the identity there is.
    let anonymous = template.common_name().is_empty() && template.organizations().is_empty();
    let extension = der::sequence(&[
        &der::element(der::OBJECT_IDENTIFIER, &[SUBJECT_ALT_NAME]),
        if anonymous { der::TRUE } else { &[] },
        &der::element(der::OCTET_STRING, &[&der::sequence(&[&names])]),
    ]);
    let extension_request = der::sequence(&[
        &der::element(der::OBJECT_IDENTIFIER, &[EXTENSION_REQUEST]),
        &der::element(der::SET, &[&der::sequence(&[&extension])]),
    ]);
    Ok(der::element(der::CONTEXT_0, &[&extension_request]))
}

fn alternative_names(template: &Template) -> Result<Vec<u8>, RequestError> {
    /// `GeneralName` choices: `[2] IA5String`, `[7] OCTET STRING`.
    const DNS_NAME: u8 = 0x82;
    const IP_ADDRESS: u8 = 0x87;

    let mut names = Vec::new();
    for name in template.dns_names() {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(RequestError::DnsName { name: name.clone() });
        }
        names.extend(der::element(DNS_NAME, &[name.as_bytes()]));
    }
    for address in template.ip_addresses() {
        names.extend(match address {
            IpAddr::V4(address) => der::element(IP_ADDRESS, &[&address.octets()]),
            IpAddr::V6(address) => der::element(IP_ADDRESS, &[&address.octets()]),
        });
    }
    Ok(names)
}

/// Why a request could not be made, or is not acceptable.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RequestError {
    /// A DNS name that X.509 cannot carry.
    DnsName {
        /// The name.
        name: String,
    },
    /// The key did not sign.
    Signing(rustls::Error),
    /// The input is not PEM.
    Pem(PemError),
    /// The input is not exactly one PEM block `CERTIFICATE REQUEST`.
    NotOneRequest {
        /// The labels of the blocks there are.
        found: Vec<String>,
    },
    /// The block is not a PKCS#10 request.
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// The public key is of a kind not supported, or too weak.
    PublicKey,
    /// The request is not signed by the key it is for.
    Signature,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DnsName { name } => write!(
                f,
                "{name:?} is not a DNS name a certificate can carry; use letters, digits, `-` and `.`, \
                 and the `xn--` form of an international name"
            ),
            Self::Signing(error) => write!(f, "the request could not be signed: {error}"),
            Self::Pem(error) => error.fmt(f),
            Self::NotOneRequest { found } if found.is_empty() => {
                f.write_str("no certificate request found; expected one PEM block CERTIFICATE REQUEST")
            }
            Self::NotOneRequest { found } => {
                write!(f, "expected one PEM block CERTIFICATE REQUEST, found {}", found.join(", "))
            }
            Self::Malformed { reason } => write!(f, "the certificate request is malformed: {reason}"),
            Self::PublicKey => f.write_str(
                "the public key of the request is malformed or unsupported; supported are ECDSA on P-256 and P-384, \
                 Ed25519, and RSA of at least 2048 bits",
            ),
            Self::Signature => f.write_str(
                "the self-signature of the request does not verify: whoever made it has not shown to own the key",
            ),
        }
    }
}

impl std::error::Error for RequestError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Signing(error) => Some(error),
            Self::Pem(error) => Some(error),
            Self::DnsName { .. }
            | Self::NotOneRequest { .. }
            | Self::Malformed { .. }
            | Self::PublicKey
            | Self::Signature => None,
        }
    }
}
