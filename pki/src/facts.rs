//! [`read_request`]: reads a CSR (PKCS#10, RFC 2986), and returns the facts that a signer may rely on.

use perennial::same_dns_name;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519, OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::names::{AlternativeNames, Subject};
use crate::pem::{self, Text};
use crate::{KeyAlgorithm, RequestError, provider, x509};

/// The names and the public key in a CSR. The self-signature of the CSR has been verified, which proves that the
/// requester has the private key.
///
/// Of the extensions in the CSR, only the subject alternative names are read. The usages that a CSR may propose are
/// ignored: a signer decides about usages by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestFacts {
    /// The subject in DER, byte for byte as in the CSR.
    pub subject_der: Vec<u8>,
    /// The subject's common name; empty if the subject has none. If there are several, the last one, as in Go.
    pub common_name: String,
    /// The subject's organizations.
    pub organizations: Vec<String>,
    /// The subject's organizational units.
    pub organizational_units: Vec<String>,
    /// The serial number in the subject, such as that of a device; empty if there is none. If there are several, the
    /// last one, as in Go.
    pub serial_number: String,
    /// The subject's other attributes, as `OID=value`.
    pub other_attributes: Vec<String>,
    /// The subject alternative names.
    pub names: AlternativeNames,
    /// The kind of the public key.
    pub key_algorithm: KeyAlgorithm,
    /// The public key as a DER `SubjectPublicKeyInfo`.
    pub public_key_der: Vec<u8>,
    /// The whole CSR in DER.
    pub der: Vec<u8>,
}

impl RequestFacts {
    /// True if both CSRs are for the same key and the same names. The order of the names does not matter, nor does
    /// upper or lower case or a trailing dot in a DNS name ([`perennial::same_dns_name`]).
    ///
    /// The DER of two such CSRs may differ, because ECDSA signatures are random.
    pub fn same_identity(&self, other: &Self) -> bool {
        self.public_key_der == other.public_key_der
            && self.common_name == other.common_name
            && same_set(&self.organizations, &other.organizations)
            && same_set(&self.organizational_units, &other.organizational_units)
            && self.serial_number == other.serial_number
            && same_set(&self.other_attributes, &other.other_attributes)
            && same_names(&self.names.dns_names, &other.names.dns_names)
            && same_set(&self.names.ip_addresses, &other.names.ip_addresses)
            && same_set(&self.names.emails, &other.names.emails)
            && same_set(&self.names.uris, &other.names.uris)
    }
}

fn same_set<T: PartialEq>(a: &[T], b: &[T]) -> bool {
    a.iter().all(|item| b.contains(item)) && b.iter().all(|item| a.contains(item))
}

fn same_names(a: &[String], b: &[String]) -> bool {
    let within = |a: &[String], b: &[String]| a.iter().all(|name| b.iter().any(|other| same_dns_name(name, other)));
    within(a, b) && within(b, a)
}

/// Reads a CSR, which must be exactly one PEM block `CERTIFICATE REQUEST`, and verifies its self-signature.
///
/// # Errors
/// [`RequestError`]: not one PEM block, not PKCS#10, an unsupported or weak key, a signature that does
/// not verify, or a malformed alternative name.
pub fn read_request(pem: &[u8]) -> Result<RequestFacts, RequestError> {
    let blocks = pem::read(pem, pem::MAX_PAIR).and_then(Text::undamaged)?;
    let not_one = || RequestError::NotOneRequest { found: blocks.iter().map(|block| block.label.to_owned()).collect() };
    let [block] = blocks[..] else { return Err(not_one()) };
    if block.label != pem::CERTIFICATE_REQUEST {
        return Err(not_one());
    }
    read_request_der(&block.der()?)
}

/// Reads a CSR in DER, and verifies its self-signature.
///
/// # Errors
/// [`RequestError`]: not exactly one PKCS#10 request, an unsupported or weak key, a signature that does not verify, or a
/// malformed alternative name.
pub fn read_request_der(der: &[u8]) -> Result<RequestFacts, RequestError> {
    let malformed = |reason: String| RequestError::Malformed { reason };
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|error| malformed(x509::parser_reason(&error).to_owned()))?;
    if !rest.is_empty() {
        return Err(malformed(format!("{} bytes follow it", rest.len())));
    }
    let info = &request.certification_request_info;
    // Checked before the signature: with an unsupported key, no signature verifies, and the error would hide the cause.
    let key_algorithm = key_algorithm(&info.subject_pki).ok_or(RequestError::PublicKey)?;
    if !has_valid_signature(&request, key_algorithm) {
        return Err(RequestError::Signature);
    }

    let Subject { common_name, organizations, organizational_units, serial_number, others } =
        Subject::read(&info.subject);
    Ok(RequestFacts {
        subject_der: info.subject.as_raw().to_vec(),
        common_name,
        organizations,
        organizational_units,
        serial_number,
        other_attributes: others,
        names: alternative_names(&request).map_err(malformed)?,
        key_algorithm,
        public_key_der: info.subject_pki.raw.to_vec(),
        der: der.to_vec(),
    })
}

/// True if the CSR is signed by its own key.
fn has_valid_signature(request: &X509CertificationRequest<'_>, key_algorithm: KeyAlgorithm) -> bool {
    if key_algorithm != KeyAlgorithm::EcdsaP521 {
        return request.verify_signature().is_ok();
    }
    // The parser verifies no signatures on P-521.
    let (info, signature) = (&request.certification_request_info, &request.signature_value.data);
    let (point, algorithm) = (&info.subject_pki.subject_public_key.data, &request.signature_algorithm.algorithm);
    provider::verify_p521(algorithm.as_bytes(), point, info.raw, signature)
}

/// The kind of a public key; `None` if the key is malformed, unsupported or too weak.
///
/// Reads the `SubjectPublicKeyInfo` only, since the CSR may name a signature algorithm of another kind of key.
pub(crate) fn key_algorithm(key: &SubjectPublicKeyInfo<'_>) -> Option<KeyAlgorithm> {
    if key.algorithm.algorithm == OID_SIG_ED25519 {
        return (key.subject_public_key.data.len() == 32).then_some(KeyAlgorithm::Ed25519);
    }
    match key.parsed().ok()? {
        PublicKey::RSA(rsa) => match rsa.key_size() {
            0..2048 => None,
            4096 => Some(KeyAlgorithm::Rsa4096),
            _ => Some(KeyAlgorithm::Rsa),
        },
        PublicKey::EC(_) => {
            let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
            // Uncompressed points: one byte of form and two coordinates.
            match key.subject_public_key.data.len() {
                65 if curve == OID_EC_P256 => Some(KeyAlgorithm::EcdsaP256),
                97 if curve == OID_NIST_EC_P384 => Some(KeyAlgorithm::EcdsaP384),
                133 if curve == OID_NIST_EC_P521 && cfg!(feature = "aws-lc-rs") => Some(KeyAlgorithm::EcdsaP521),
                _ => None,
            }
        }
        PublicKey::DSA(_) | PublicKey::GostR3410(_) | PublicKey::GostR3410_2012(_) | PublicKey::Unknown(_) => None,
    }
}

fn alternative_names(request: &X509CertificationRequest<'_>) -> Result<AlternativeNames, String> {
    let attributes = request.certification_request_info.iter_attributes();
    let requests = attributes.filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(request) => Some(request),
        ParsedCriAttribute::ChallengePassword(_) | ParsedCriAttribute::UnsupportedAttribute => None,
    });
    // If there were two, it would be undefined which one counts.
    let Some(requested) = at_most_one(requests, "extensionRequest")? else { return Ok(AlternativeNames::default()) };
    let names = requested.extensions.iter().filter(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME);
    let Some(names) = at_most_one(names, "subjectAltName")? else { return Ok(AlternativeNames::default()) };
    match names.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => AlternativeNames::read(names),
        _ => Err("its subjectAltName cannot be read".to_owned()),
    }
}

fn at_most_one<T>(mut items: impl Iterator<Item = T>, kind: &str) -> Result<Option<T>, String> {
    let first = items.next();
    if items.next().is_some() { Err(format!("it has more than one {kind}")) } else { Ok(first) }
}
