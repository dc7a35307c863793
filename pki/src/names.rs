//! Names in certificates and requests.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use x509_parser::extensions::{GeneralName, SubjectAlternativeName};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Subject alternative names of the four kinds Kubernetes knows; others are skipped, as Go skips them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// E-mail addresses.
    pub emails: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
}

impl Names {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.ips.is_empty() && self.emails.is_empty() && self.uris.is_empty()
    }

    pub(crate) fn extend(&mut self, alternative: &SubjectAlternativeName<'_>) -> Result<(), AddressError> {
        for name in &alternative.general_names {
            if let GeneralName::DNSName(name) = name {
                self.dns.push((*name).into());
            } else if let GeneralName::IPAddress(octets) = name {
                self.ips.push(address(octets)?);
            } else if let GeneralName::RFC822Name(name) = name {
                self.emails.push((*name).into());
            } else if let GeneralName::URI(uri) = name {
                self.uris.push((*uri).into());
            }
        }
        Ok(())
    }
}

fn address(octets: &[u8]) -> Result<IpAddr, AddressError> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| Ipv4Addr::from(octets).into());
    let v6 = <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).to_canonical());
    v4.or(v6).map_err(|_| AddressError(octets.len()))
}

/// An IP address that is neither 4 nor 16 bytes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressError(usize);

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot parse IP address of length {}", self.0)
    }
}

/// The last common name, as Go's `pkix.Name` has it; empty if there is none.
pub(crate) fn common_name(name: &X509Name<'_>) -> String {
    name.iter_common_name().last().map(text).unwrap_or_default()
}

pub(crate) fn organizations(name: &X509Name<'_>) -> Vec<String> {
    name.iter_organization().map(text).collect()
}

/// Text in whatever string type it comes; what is no text at all is shown as far as it goes.
fn text(attribute: &AttributeTypeAndValue<'_>) -> String {
    attribute.as_str().map_or_else(|_| String::from_utf8_lossy(attribute.as_slice()).into_owned(), Into::into)
}
