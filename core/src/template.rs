//! Templates: the identity that a certificate must carry.

mod check;

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ptr;

use crate::certificate::Certificate;
use crate::names::{Kind, Names};
pub use check::{TemplateError, is_dns_name};

/// The identity that a certificate must have: subject and subject alternative names.
///
/// Names and addresses are sets: sorted, without duplicates, DNS names in lower case and without a trailing dot,
/// IPv4-mapped IPv6 addresses as IPv4. Two templates are equal if they request the same identity. A template may have
/// names that no certificate can carry: [`check`](Self::check) refuses such a template.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Template {
    names: Names,
}

// A machine of a large fleet has little else: see the test `member_of_fleet_has_at_most_400_bytes`.
const _: () = assert!(size_of::<Template>() <= 72);

impl Template {
    /// A template with this common name and nothing else.
    pub fn new(common_name: impl Into<String>) -> Self {
        Self::default().with_one(Kind::CommonName, common_name.into())
    }

    /// The template of a kubelet's client certificate: `CN=system:node:<node>, O=system:nodes`.
    pub fn node(node: &str) -> Self {
        Self::new(format!("system:node:{node}")).with_organizations(["system:nodes"])
    }

    /// Adds organisations (`O`) to the subject.
    pub fn with_organizations<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Self {
        self.with_all(Kind::Organization, names.into_iter().map(Into::into))
    }

    /// Adds DNS names to the subject alternative names.
    pub fn with_dns_names<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Self {
        self.with_all(Kind::DnsName, names.into_iter().map(|name| relative(&name.into()).to_ascii_lowercase()))
    }

    /// Adds IP addresses to the subject alternative names.
    pub fn with_ip_addresses(self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        // As Go's `net.IP`, which prints an IPv4-mapped address as IPv4.
        let names = addresses.into_iter().map(|address| match address.to_canonical() {
            IpAddr::V4(address) => (Kind::Ipv4, address.octets().into()),
            IpAddr::V6(address) => (Kind::Ipv6, address.octets().into()),
        });
        Self { names: self.names.changed(None, names.collect()) }
    }

    /// Adds URIs to the subject alternative names, such as the SPIFFE ID `spiffe://example.com/payments`.
    pub fn with_uris<S: Into<String>>(self, uris: impl IntoIterator<Item = S>) -> Self {
        self.with_all(Kind::Uri, uris.into_iter().map(Into::into))
    }

    /// Adds organizational units (`OU`) to the subject.
    pub fn with_organizational_units<S: Into<String>>(self, units: impl IntoIterator<Item = S>) -> Self {
        self.with_all(Kind::OrganizationalUnit, units.into_iter().map(Into::into))
    }

    /// Sets the serial number in the subject, such as that of a device (IEEE 802.1AR §8.6). An empty text removes it.
    /// The serial number of a certificate is another number, which the signer chooses.
    pub fn with_serial_number(self, number: impl Into<String>) -> Self {
        self.with_one(Kind::SerialNumber, number.into())
    }

    /// The subject's common name. Empty if there is none.
    pub fn common_name(&self) -> &str {
        self.texts(Kind::CommonName).next().unwrap_or_default()
    }

    /// The subject's organisations, sorted.
    pub fn organizations(&self) -> impl Iterator<Item = &str> + Clone {
        self.texts(Kind::Organization)
    }

    /// DNS names among the subject alternative names, sorted, in lower case.
    pub fn dns_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.texts(Kind::DnsName)
    }

    /// IP addresses among the subject alternative names, sorted.
    pub fn ip_addresses(&self) -> impl Iterator<Item = IpAddr> + Clone {
        self.names.iter().filter_map(|(kind, octets)| match kind {
            Kind::Ipv4 => <[u8; 4]>::try_from(octets).ok().map(|octets| Ipv4Addr::from(octets).into()),
            Kind::Ipv6 => <[u8; 16]>::try_from(octets).ok().map(|octets| Ipv6Addr::from(octets).into()),
            _ => None,
        })
    }

    /// URIs among the subject alternative names, sorted.
    pub fn uris(&self) -> impl Iterator<Item = &str> + Clone {
        self.texts(Kind::Uri)
    }

    /// The subject's organizational units, sorted.
    pub fn organizational_units(&self) -> impl Iterator<Item = &str> + Clone {
        self.texts(Kind::OrganizationalUnit)
    }

    /// The serial number in the subject (X.520 `serialNumber`), such as that of a device (IEEE 802.1AR). Not the serial
    /// number of the certificate. Empty if there is none.
    pub fn serial_number(&self) -> &str {
        self.texts(Kind::SerialNumber).next().unwrap_or_default()
    }

    /// True if the template has no names. A request for it leaves all names to the signer, and every certificate
    /// satisfies it.
    pub fn is_empty(&self) -> bool {
        self.names.iter().next().is_none()
    }

    /// The common name that a certificate must have: empty if it must have none, `None` if the signer chooses the names
    /// because the template [has none](Self::is_empty).
    pub fn wanted_common_name(&self) -> Option<&str> {
        (!self.is_empty()).then(|| self.common_name())
    }

    /// Whether `certificate` has the template's common name, byte for byte. True for every certificate if the template
    /// is [empty](Self::is_empty).
    pub fn is_named_by(&self, certificate: &Certificate) -> bool {
        ptr::eq(self, &*certificate.names)
            || self.wanted_common_name().is_none_or(|wanted| wanted == certificate.common_name())
    }

    /// Whether `certificate` carries at least what this template requests: the same common name and every other name.
    /// The certificate may carry more names (as in client-go's `certSatisfiesTemplate`). DNS names compare by
    /// [`same_dns_name`], addresses by value, all others byte for byte. An [empty](Self::is_empty) template is satisfied
    /// by every certificate.
    #[inline]
    pub fn satisfied_by(&self, certificate: &Certificate) -> bool {
        ptr::eq(self, &*certificate.names) || self.is_within(&certificate.names)
    }

    /// Whether `other` has the common name that this template wants, and every other name of it.
    fn is_within(&self, other: &Self) -> bool {
        // Both sets are sorted: the search for a name goes on behind the name before.
        let mut present = other.names.iter();
        self.wanted_common_name().is_none_or(|wanted| wanted == other.common_name())
            && self.names.iter().all(|wanted| present.any(|name| name == wanted))
    }

    fn texts(&self, wanted: Kind) -> impl Iterator<Item = &str> + Clone {
        self.names.iter().filter(move |(kind, _)| *kind == wanted).filter_map(|(_, name)| str::from_utf8(name).ok())
    }

    fn with_all(self, kind: Kind, names: impl Iterator<Item = String>) -> Self {
        Self { names: self.names.changed(None, names.map(|name| (kind, name.into_bytes())).collect()) }
    }

    /// Replaces the one name of this kind. An empty name removes it.
    fn with_one(self, kind: Kind, name: String) -> Self {
        let name = Some((kind, name.into_bytes())).filter(|(_, name)| !name.is_empty());
        Self { names: self.names.changed(Some(kind), name.into_iter().collect()) }
    }
}

/// Shows the names as `Display` does.
impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({self})")
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
