//! Certificate signing requests (PKCS#10, RFC 2986): written from a template, read back as facts.

use std::fmt;
use std::net::IpAddr;

use perennial::Template;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, Tag};

use crate::key::{KeyAlgorithm, KeyError, KeyPair};
use crate::names::{Names, common_name, organizations};
use crate::pem;

const LABEL: &str = "CERTIFICATE REQUEST";

const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const EXTENSION_REQUEST: &[u64] = &[1, 2, 840, 113_549, 1, 9, 14];

/// A signed request, in both encodings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// PEM, `CERTIFICATE REQUEST`.
    pub pem: String,
    /// DER.
    pub der: Vec<u8>,
}

/// A request for what `template` asks for, signed with `key`.
///
/// The subject is written as Go writes it, organisations before the common name, so that it compares
/// equal to a kubelet's byte for byte.
///
/// # Errors
/// [`RequestError::DnsName`] for a name no certificate can hold, or if the key cannot sign.
pub fn certificate_request(template: &Template, key: &KeyPair) -> Result<CertificateRequest, RequestError> {
    if let Some(name) = template.dns_names().iter().find(|name| name.is_empty() || !name.is_ascii()) {
        return Err(RequestError::DnsName(name.clone()));
    }
    let info = yasna::construct_der(|writer| write_info(writer, template, key));
    let signature = key.sign(&info).map_err(RequestError::Key)?;
    let der = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(&info);
            writer.next().write_sequence(|writer| write_signature_algorithm(writer, key.algorithm()));
            writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    });
    Ok(CertificateRequest { pem: pem::encode(LABEL, &der), der })
}

fn write_info(writer: DERWriter<'_>, template: &Template, key: &KeyPair) {
    writer.write_sequence(|writer| {
        writer.next().write_u8(0);
        writer.next().write_sequence(|writer| {
            let common_name = Some(template.common_name()).filter(|name| !name.is_empty());
            let organizations = template.organizations().iter().map(|name| (ORGANIZATION, name.as_str()));
            for (kind, value) in organizations.chain(common_name.map(|name| (COMMON_NAME, name))) {
                writer.next().write_set(|writer| {
                    writer.next().write_sequence(|writer| {
                        write_oid(writer.next(), kind);
                        writer.next().write_utf8_string(value);
                    });
                });
            }
        });
        writer.next().write_der(key.public_key_der());
        writer.next().write_tagged_implicit(Tag::context(0), |writer| {
            writer.write_set(|writer| {
                if !template.dns_names().is_empty() || !template.ip_addresses().is_empty() {
                    write_extension_request(writer.next(), template);
                }
            });
        });
    });
}

fn write_extension_request(writer: DERWriter<'_>, template: &Template) {
    writer.write_sequence(|writer| {
        write_oid(writer.next(), EXTENSION_REQUEST);
        writer.next().write_set(|writer| {
            writer.next().write_sequence(|writer| {
                writer.next().write_sequence(|writer| {
                    write_oid(writer.next(), SUBJECT_ALT_NAME);
                    writer.next().write_bytes(&general_names(template));
                });
            });
        });
    });
}

fn general_names(template: &Template) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            for name in template.dns_names() {
                writer.next().write_tagged_implicit(Tag::context(2), |writer| writer.write_ia5_string(name));
            }
            for address in template.ip_addresses() {
                let octets = match address {
                    IpAddr::V4(v4) => v4.octets().to_vec(),
                    IpAddr::V6(v6) => v6.octets().to_vec(),
                };
                writer.next().write_tagged_implicit(Tag::context(7), |writer| writer.write_bytes(&octets));
            }
        });
    })
}

fn write_signature_algorithm(writer: &mut yasna::DERWriterSeq<'_>, algorithm: KeyAlgorithm) {
    match algorithm {
        KeyAlgorithm::EcdsaP256 => write_oid(writer.next(), &[1, 2, 840, 10045, 4, 3, 2]),
        KeyAlgorithm::EcdsaP384 => write_oid(writer.next(), &[1, 2, 840, 10045, 4, 3, 3]),
        KeyAlgorithm::Ed25519 => write_oid(writer.next(), &[1, 3, 101, 112]),
        KeyAlgorithm::Rsa => {
            write_oid(writer.next(), &[1, 2, 840, 113_549, 1, 1, 11]);
            writer.next().write_null();
        }
    }
}

fn write_oid(writer: DERWriter<'_>, oid: &[u64]) {
    writer.write_oid(&ObjectIdentifier::from_slice(oid));
}

/// What a request asks for. Its signature was verified: whoever made it holds the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The subject, DER, as sent.
    pub subject_der: Vec<u8>,
    /// The subject's common name, empty if there is none.
    pub common_name: String,
    /// The subject's organisations.
    pub organizations: Vec<String>,
    /// Subject alternative names.
    pub names: Names,
    /// SubjectPublicKeyInfo, DER, as sent.
    pub public_key_der: Vec<u8>,
}

impl RequestFacts {
    /// Whether both ask for the same identity with the same key, in whatever order and encoding.
    pub fn asks_for_the_same(&self, other: &Self) -> bool {
        fn sorted<T: Ord + Clone>(items: &[T]) -> Vec<T> {
            let mut items = items.to_vec();
            items.sort_unstable();
            items.dedup();
            items
        }
        self.public_key_der == other.public_key_der
            && self.common_name == other.common_name
            && sorted(&self.organizations) == sorted(&other.organizations)
            && sorted(&self.names.dns) == sorted(&other.names.dns)
            && sorted(&self.names.ips) == sorted(&other.names.ips)
            && sorted(&self.names.emails) == sorted(&other.names.emails)
            && sorted(&self.names.uris) == sorted(&other.names.uris)
    }
}

/// Reads a PEM request and verifies that the key it names signed it. Only the first block counts, as in Kubernetes.
///
/// # Errors
/// [`RequestError`] says what is wrong with it.
pub fn read_request(text: &[u8]) -> Result<RequestFacts, RequestError> {
    if text.len() > pem::MAX_PEM {
        return Err(RequestError::NotPem);
    }
    let blocks = pem::blocks(text).map_err(|_| RequestError::NotPem)?;
    let block = blocks.first().filter(|block| block.tag() == LABEL).ok_or(RequestError::NotPem)?;
    let malformed = |error: &dyn fmt::Display| RequestError::Malformed(error.to_string());
    let (rest, request) = X509CertificationRequest::from_der(block.contents()).map_err(|error| malformed(&error))?;
    if !rest.is_empty() {
        return Err(RequestError::Malformed("there is data after its end".into()));
    }
    request.verify_signature().map_err(|_| RequestError::Signature)?;
    let info = &request.certification_request_info;
    let mut names = Names::default();
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(alternative) = extension {
            names.extend(alternative).map_err(|error| malformed(&error))?;
        }
    }
    Ok(RequestFacts {
        subject_der: info.subject.as_raw().to_vec(),
        common_name: common_name(&info.subject),
        organizations: organizations(&info.subject),
        names,
        public_key_der: info.subject_pki.raw.to_vec(),
    })
}

/// A request that cannot be made, or that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// A DNS name no certificate can hold.
    DnsName(String),
    /// The key cannot sign it.
    Key(KeyError),
    /// There is no PEM block `CERTIFICATE REQUEST` at the beginning.
    NotPem,
    /// It is not a PKCS#10 request.
    Malformed(String),
    /// The key it names has not signed it.
    Signature,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DnsName(name) => {
                write!(
                    f,
                    "{name:?} cannot be a DNS name in a certificate: write international names in their ASCII (xn--) form"
                )
            }
            Self::Key(error) => write!(f, "cannot sign a request: {error}"),
            Self::NotPem => f.write_str("PEM block type must be CERTIFICATE REQUEST"),
            Self::Malformed(why) => write!(f, "malformed certificate request: {why}"),
            Self::Signature => f.write_str("the request is not signed by the key it names"),
        }
    }
}

impl std::error::Error for RequestError {}
