//! The facts of a certificate by which the machine judges it. The driver reads them from X.509.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use crate::rare_names::RareNames;
use crate::sync::Arc;
use crate::template::Template;
use crate::time::UnixTime;

/// The validity period of a certificate, both ends inclusive (RFC 5280 §4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Validity {
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Validity {
    /// A period from `not_before` to `not_after`.
    ///
    /// # Errors
    /// [`ValidityError`] if the period is empty, that is, if `not_before` is not before `not_after`.
    pub const fn new(not_before: UnixTime, not_after: UnixTime) -> Result<Self, ValidityError> {
        if not_before.as_millis() < not_after.as_millis() {
            Ok(Self { not_before, not_after })
        } else {
            Err(ValidityError { not_before, not_after })
        }
    }

    /// The first instant of validity.
    pub const fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// The last instant of validity.
    pub const fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The time from `not_before` to `not_after`. If the signer has backdated `not_before`, this is longer than the
    /// time from issue to `not_after`.
    pub const fn lifetime(&self) -> Duration {
        self.not_after.since(self.not_before)
    }

    /// Whether `at` lies after the last instant of validity.
    pub const fn expired(&self, at: UnixTime) -> bool {
        at.as_millis() > self.not_after.as_millis()
    }
}

/// Error of [`Validity::new`]: the period is empty, since `not_before` is not before `not_after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidityError {
    not_before: UnixTime,
    not_after: UnixTime,
}

impl fmt::Display for ValidityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "validity period is empty: notBefore {} is not before notAfter {}", self.not_before, self.not_after)
    }
}

impl core::error::Error for ValidityError {}

/// SHA-256 of the leaf's DER encoding, as `openssl x509 -fingerprint -sha256` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The first eight bytes as a number, from which jitter is computed.
    pub(crate) const fn prefix(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Shows the first eight hexadecimal digits, enough to distinguish certificates in a log.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Shows all 64 hexadecimal digits, as in Kubernetes' `authentication.kubernetes.io/credential-id: X509SHA256=…`.
impl fmt::LowerHex for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A certificate: the facts by which the machine judges it, and its chain, which the machine never reads.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// The validity period of the leaf.
    pub validity: Validity,
    /// SHA-256 of the leaf. Identifies the certificate.
    pub fingerprint: Fingerprint,
    /// The subject's common name, empty if it has none.
    pub common_name: String,
    /// The subject's organisations.
    pub organizations: Vec<String>,
    /// DNS names among the subject alternative names.
    pub dns_names: Vec<String>,
    /// IP addresses among the subject alternative names.
    pub ip_addresses: Vec<IpAddr>,
    /// URIs, organizational units and the serial number in the subject.
    pub rare_names: RareNames,
    /// True for a bootstrap credential, which authenticates requests and is due until an issued certificate replaces
    /// it.
    pub provisional: bool,
    /// The chain, leaf first, in the encoding of the driver (DER certificates, one after another, in `perennial-pki`). May be empty.
    pub chain: Arc<[u8]>,
}

impl Certificate {
    /// A certificate with exactly the names of `template`, not provisional, and without a chain: for a driver that has
    /// checked the names of the issued certificate itself, and whose chains are elsewhere, such as in a secure element.
    pub fn for_template(template: &Template, validity: Validity, fingerprint: Fingerprint) -> Self {
        Self {
            validity,
            fingerprint,
            common_name: template.common_name().into(),
            organizations: template.organizations().into(),
            dns_names: template.dns_names().into(),
            ip_addresses: template.ip_addresses().into(),
            rare_names: template.rare_names().clone(),
            provisional: false,
            chain: Arc::from([]),
        }
    }
}

/// Shows all facts, and the length of the chain in place of its bytes, which would fill a log.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("fingerprint", &self.fingerprint)
            .field("common_name", &self.common_name)
            .field("organizations", &self.organizations)
            .field("dns_names", &self.dns_names)
            .field("ip_addresses", &self.ip_addresses)
            .field("rare_names", &self.rare_names)
            .field("not_before", &format_args!("{}", self.validity.not_before))
            .field("not_after", &format_args!("{}", self.validity.not_after))
            .field("provisional", &self.provisional)
            .field("chain", &format_args!("{} bytes", self.chain.len()))
            .finish()
    }
}
