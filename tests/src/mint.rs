//! Makes certificates for tests.

use std::time::Duration;

use perennial::{Certificate, Fingerprint, RareNames, Template, UnixTime, Validity};

/// 2026-01-01T00:00:00Z, when virtual time begins.
pub const EPOCH: UnixTime = UnixTime::from_secs(1_767_225_600);

/// A certificate that satisfies `template`, and is valid from `not_before` for `life`, but at least for a millisecond.
/// Certificates with different serial numbers have different fingerprints.
pub fn certificate(template: &Template, serial: u64, not_before: UnixTime, life: Duration) -> Certificate {
    let not_after = not_before.after(life.max(Duration::from_millis(1)));
    let validity = Validity::new(not_before, not_after).unwrap_or_else(|_| the_last_millisecond());
    Certificate::for_template(template, validity, fingerprint(serial))
}

/// Removes names from a certificate, like a signer that grants fewer names than requested. Removes all rare names if
/// there are any, or else one DNS name, IP address or organization, the first of these kinds that the certificate has.
/// A certificate with only a common name stays as it is.
pub fn trimmed(mut certificate: Certificate) -> Certificate {
    if !certificate.rare_names.is_empty() {
        return Certificate { rare_names: RareNames::new(), ..certificate };
    }
    let Certificate { dns_names, ip_addresses, organizations, .. } = &mut certificate;
    let _ = dns_names.pop().is_some() || ip_addresses.pop().is_some() || organizations.pop().is_some();
    certificate
}

/// Replaces the common name by that of another party.
pub fn foreign(mut certificate: Certificate) -> Certificate {
    certificate.common_name = "system:masters".into();
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
