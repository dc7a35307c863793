//! Templates: the identity that a certificate must carry.

mod check;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::certificate::Certificate;
use crate::rare_names::RareNames;
pub use check::{TemplateError, is_dns_name};

/// The identity that a certificate must have: subject and subject alternative names.
///
/// Names and addresses are sets: sorted, without duplicates, DNS names in lower case and without a trailing dot,
/// IPv4-mapped IPv6 addresses as IPv4. Two templates are equal if they request the same identity. A template may have
/// names that no certificate can carry: [`check`](Self::check) refuses such a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Template {
    common_name: String,
    organizations: Vec<String>,
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
    rare_names: RareNames,
}

impl Template {
    /// A template with this common name and nothing else.
    pub fn new(common_name: impl Into<String>) -> Self {
        Self { common_name: common_name.into(), ..Self::default() }
    }

    /// The template of a kubelet's client certificate: `CN=system:node:<node>, O=system:nodes`.
    pub fn node(node: &str) -> Self {
        Self::new(format!("system:node:{node}")).with_organizations(["system:nodes"])
    }

    /// Adds organisations (`O`) to the subject.
    pub fn with_organizations<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        insert_all(&mut self.organizations, names.into_iter().map(Into::into));
        self
    }

    /// Adds DNS names to the subject alternative names.
    pub fn with_dns_names<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        let normal = |name: S| relative(&name.into()).to_ascii_lowercase();
        insert_all(&mut self.dns_names, names.into_iter().map(normal));
        self
    }

    /// Adds IP addresses to the subject alternative names.
    pub fn with_ip_addresses(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        // As Go's `net.IP`, which prints an IPv4-mapped address as IPv4.
        insert_all(&mut self.ip_addresses, addresses.into_iter().map(|ip| ip.to_canonical()));
        self
    }

    /// Adds URIs to the subject alternative names, such as the SPIFFE ID `spiffe://example.com/payments`.
    pub fn with_uris<S: Into<String>>(mut self, uris: impl IntoIterator<Item = S>) -> Self {
        self.rare_names = self.rare_names.with_uris(uris);
        self
    }

    /// Adds organizational units (`OU`) to the subject.
    pub fn with_organizational_units<S: Into<String>>(mut self, units: impl IntoIterator<Item = S>) -> Self {
        self.rare_names = self.rare_names.with_organizational_units(units);
        self
    }

    /// Sets the serial number in the subject, such as that of a device (IEEE 802.1AR §8.6). An empty text removes it.
    /// The serial number of a certificate is another number, which the signer chooses.
    pub fn with_serial_number(mut self, number: impl Into<String>) -> Self {
        self.rare_names = self.rare_names.with_serial_number(number);
        self
    }

    /// Replaces URIs, organizational units and serial number.
    pub fn with_rare_names(self, rare_names: RareNames) -> Self {
        Self { rare_names, ..self }
    }

    /// The subject's common name.
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// The subject's organisations, sorted.
    pub fn organizations(&self) -> &[String] {
        &self.organizations
    }

    /// DNS names, sorted, in lower case.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// IP addresses, sorted.
    pub fn ip_addresses(&self) -> &[IpAddr] {
        &self.ip_addresses
    }

    /// URIs, organizational units and the serial number in the subject.
    pub fn rare_names(&self) -> &RareNames {
        &self.rare_names
    }

    /// Whether `certificate` has the template's common name, byte for byte.
    pub fn is_named_by(&self, certificate: &Certificate) -> bool {
        self.common_name == certificate.common_name
    }

    /// Whether `certificate` carries at least what this template requests: the same common name and every organisation,
    /// DNS name, address and [rare name](RareNames). The certificate may carry more names (as in client-go's
    /// `certSatisfiesTemplate`). DNS names compare by [`same_dns_name`], addresses by value, all others byte for byte.
    pub fn satisfied_by(&self, certificate: &Certificate) -> bool {
        self.is_named_by(certificate)
            && self.organizations.iter().all(|o| certificate.organizations.contains(o))
            && self.dns_names.iter().all(|name| certificate.dns_names.iter().any(|have| same_dns_name(have, name)))
            && self.ip_addresses.iter().all(|ip| certificate.ip_addresses.iter().any(|have| have.to_canonical() == *ip))
            && self.rare_names.is_within(&certificate.rare_names)
    }
}

/// Whether two DNS names are equal. Ignores the case of ASCII letters (RFC 4343 §2), and one trailing dot, which marks
/// an absolute name and is no part of the name.
pub fn same_dns_name(a: &str, b: &str) -> bool {
    relative(a).eq_ignore_ascii_case(relative(b))
}

/// A DNS name without its trailing dot. Returns "." and a name that ends in two dots unchanged: neither is a valid
/// name, and the removal of a dot must not turn it into one.
fn relative(name: &str) -> &str {
    name.strip_suffix('.').filter(|rest| !rest.is_empty() && !rest.ends_with('.')).unwrap_or(name)
}

pub(crate) fn insert_all<T: Ord>(set: &mut Vec<T>, items: impl IntoIterator<Item = T>) {
    // Sorted and without duplicates, so that equal sets are equal values.
    set.extend(items);
    set.sort_unstable();
    set.dedup();
}
