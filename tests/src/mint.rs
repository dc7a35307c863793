//! Makes certificates for tests.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Certificate, Fingerprint, Template, UnixTime, Validity};

/// 2026-01-01T00:00:00Z, when virtual time begins.
pub const EPOCH: UnixTime = UnixTime::from_secs(1_767_225_600);

/// A certificate that satisfies `template`, and is valid from `not_before` for `life`, but at least for a millisecond.
/// Certificates with different serial numbers have different fingerprints.
pub fn certificate(template: &Template, serial: u64, not_before: UnixTime, life: Duration) -> Certificate {
    let not_after = not_before.after(life.max(Duration::from_millis(1)));
    let validity = Validity::new(not_before, not_after).unwrap_or_else(|_| the_last_millisecond());
    Certificate::for_template(template.clone(), validity, fingerprint(serial))
}

/// Removes names from a certificate, like a signer that grants fewer names than requested. Removes all rare names if
/// there are any, or else one DNS name, IP address or organization, the first of these kinds that the certificate has.
/// A certificate with only a common name stays as it is.
pub fn trimmed(mut certificate: Certificate) -> Certificate {
    let names = &certificate.names;
    let mut organizations: Vec<_> = names.organizations().collect();
    let mut dns_names: Vec<_> = names.dns_names().collect();
    let mut ip_addresses: Vec<_> = names.ip_addresses().collect();
    let has_rare_names =
        names.uris().chain(names.organizational_units()).next().is_some() || !names.serial_number().is_empty();
    let _ =
        has_rare_names || dns_names.pop().is_some() || ip_addresses.pop().is_some() || organizations.pop().is_some();
    let rest = Template::new(names.common_name()).with_organizations(organizations).with_dns_names(dns_names);
    certificate.names = Arc::new(rest.with_ip_addresses(ip_addresses));
    certificate
}

/// Replaces the common name by that of another party.
pub fn foreign(mut certificate: Certificate) -> Certificate {
    let names = &certificate.names;
    let other = Template::new("system:masters").with_organizations(names.organizations());
    let other = other.with_dns_names(names.dns_names()).with_ip_addresses(names.ip_addresses());
    let other = other.with_uris(names.uris()).with_organizational_units(names.organizational_units());
    certificate.names = Arc::new(other.with_serial_number(names.serial_number()));
    certificate
}

/// Marks the certificate as a bootstrap credential.
pub fn provisional(mut certificate: Certificate) -> Certificate {
    certificate.provisional = true;
    certificate
}

/// A fingerprint for the certificate with this serial number. Its first bytes are scrambled, so that consecutive serial
/// numbers give unlike fingerprints.
pub fn fingerprint(serial: u64) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&serial.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[24..].copy_from_slice(&serial.to_be_bytes());
    Fingerprint(bytes)
}

/// The last millisecond that `UnixTime` can represent, as a validity period. Used for a `not_before` so late that no
/// later `notAfter` exists.
fn the_last_millisecond() -> Validity {
    let end = i64::MAX;
    Validity::new(UnixTime::from_millis(end - 1), UnixTime::from_millis(end)).expect("one follows the other")
}
