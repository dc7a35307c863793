//! Reads the names in certificates and CSRs: the subject and the subject alternative names.

use std::net::IpAddr;

use perennial::Escaped;
use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::{GeneralName, SubjectAlternativeName};
use x509_parser::oid_registry::{
    OID_DOMAIN_COMPONENT, OID_PKCS9_EMAIL_ADDRESS, OID_X509_COMMON_NAME, OID_X509_COUNTRY_NAME, OID_X509_LOCALITY_NAME,
    OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT, OID_X509_SERIALNUMBER, OID_X509_STATE_OR_PROVINCE_NAME,
    Oid,
};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// A subject. For Kubernetes, the common name is the user, and the organizations are the groups.
#[derive(Default)]
pub(crate) struct Subject {
    /// The last common name of the subject, as in Go's `pkix.Name`: the user for an API server. Empty if there is none.
    pub(crate) common_name: String,
    pub(crate) organizations: Vec<String>,
    pub(crate) organizational_units: Vec<String>,
    /// The last serial number attribute, as in Go's `pkix.Name`. Empty if there is none.
    pub(crate) serial_number: String,
    /// All other attributes, as `OID=value`.
    pub(crate) others: Vec<String>,
}

impl Subject {
    pub(crate) fn read(name: &X509Name<'_>) -> Self {
        let mut subject = Self::default();
        // Flattens multi-valued RDNs: Go writes several organizations into one RDN.
        for attribute in name.iter_attributes() {
            let value = text(attribute);
            match attribute.attr_type() {
                kind if *kind == OID_X509_COMMON_NAME => subject.common_name = value,
                kind if *kind == OID_X509_ORGANIZATION_NAME => subject.organizations.push(value),
                kind if *kind == OID_X509_ORGANIZATIONAL_UNIT => subject.organizational_units.push(value),
                kind if *kind == OID_X509_SERIALNUMBER => subject.serial_number = value,
                kind => subject.others.push(format!("{kind}={value}")),
            }
        }
        subject
    }
}

/// Short names of attribute types: those of RFC 4514 §3, and serial number and e-mail address as openssl shows them.
/// Used in place of x509-parser's table, which is a map of every OID that x509-parser knows.
const ABBREVIATIONS: [(Oid<'static>, &str); 9] = [
    (OID_X509_COMMON_NAME, "CN"),
    (OID_X509_ORGANIZATION_NAME, "O"),
    (OID_X509_ORGANIZATIONAL_UNIT, "OU"),
    (OID_X509_COUNTRY_NAME, "C"),
    (OID_X509_LOCALITY_NAME, "L"),
    (OID_X509_STATE_OR_PROVINCE_NAME, "ST"),
    (OID_X509_SERIALNUMBER, "serialNumber"),
    (OID_DOMAIN_COMPONENT, "DC"),
    (OID_PKCS9_EMAIL_ADDRESS, "Email"),
];

/// Formats a distinguished name for messages, as `O=…, CN=…` in the order of the encoding. Escapes control characters.
pub(crate) fn display(name: &X509Name<'_>) -> String {
    let shown = name.iter_attributes().map(|attribute| {
        let oid = attribute.attr_type();
        let known = ABBREVIATIONS.into_iter().find(|(abbreviated, _)| abbreviated == oid);
        let kind = known.map_or_else(|| oid.to_id_string(), |(_, abbreviation)| abbreviation.to_owned());
        format!("{kind}={}", Escaped(&text(attribute)))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Decodes the value of an attribute, which may have any ASN.1 string type.
fn text(attribute: &AttributeTypeAndValue<'_>) -> String {
    let value = attribute.attr_value();
    match value.tag() {
        Tag::BmpString => {
            let units: Vec<u16> =
                value.data.chunks(2).map(|pair| pair.iter().fold(0, |u, b| u << 8 | u16::from(*b))).collect();
            String::from_utf16_lossy(&units)
        }
        // T.61 by the standard, ISO 8859-1 in practice.
        Tag::TeletexString => value.data.iter().copied().map(char::from).collect(),
        _ => String::from_utf8_lossy(value.data).into_owned(),
    }
}

/// Subject alternative names, by kind. Names of kinds without a field here (directory names, registered ids …) are
/// neither read nor written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlternativeNames {
    /// DNS names.
    pub dns_names: Vec<String>,
    /// IP addresses. IPv4-mapped IPv6 addresses are read as IPv4.
    pub ip_addresses: Vec<IpAddr>,
    /// E-mail addresses.
    pub emails: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
}

impl AlternativeNames {
    /// Reads the names of an extension, by kind.
    ///
    /// # Errors
    /// The problem with the first malformed name, as a clause. Peers would refuse a certificate with such a name.
    pub(crate) fn read(names: &SubjectAlternativeName<'_>) -> Result<Self, String> {
        let mut read = Self::default();
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => read.dns_names.push(ascii(name, "DNS name")?),
                GeneralName::RFC822Name(name) => read.emails.push(ascii(name, "e-mail address")?),
                GeneralName::URI(name) => read.uris.push(ascii(name, "URI")?),
                GeneralName::IPAddress(bytes) => read.ip_addresses.push(address(bytes)?),
                GeneralName::Invalid(tag, _) => return Err(format!("alternative name of kind {tag} is malformed")),
                GeneralName::OtherName(..)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::RegisteredID(_) => {}
            }
        }
        Ok(read)
    }
}

fn ascii(name: &str, kind: &str) -> Result<String, String> {
    if name.is_ascii() { Ok(name.to_owned()) } else { Err(format!("{kind} {name:?} is not ASCII")) }
}

fn address(bytes: &[u8]) -> Result<IpAddr, String> {
    let address =
        <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    match address {
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => Err(format!("IP address of {} bytes instead of 4 or 16", bytes.len())),
    }
}
