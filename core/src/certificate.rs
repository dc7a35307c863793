//! What the machine knows of a certificate: facts, read from X.509 at the edge.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

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

    /// From `not_before` to `not_after`, a signer's backdating included.
    pub const fn lifetime(&self) -> Duration {
        self.not_after.since(self.not_before)
    }

    /// Whether `at` lies after the last instant of validity.
    pub const fn expired(&self, at: UnixTime) -> bool {
        at.as_millis() > self.not_after.as_millis()
    }
}

/// An empty validity period.
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
    /// The first eight bytes, enough to seed jitter.
    pub(crate) const fn prefix(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// The first eight hexadecimal digits, enough to tell two certificates apart in a log.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// All of it, as Kubernetes writes it in `authentication.kubernetes.io/credential-id`.
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

/// A certificate: the facts the machine judges by, and the chain it passes along unread.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// The validity period of the leaf.
    pub validity: Validity,
    /// Identifies the leaf.
    pub fingerprint: Fingerprint,
    /// The subject's common name, empty if it has none.
    pub common_name: String,
    /// The subject's organisations.
    pub organizations: Vec<String>,
    /// DNS names among the subject alternative names.
    pub dns_names: Vec<String>,
    /// IP addresses among the subject alternative names.
    pub ip_addresses: Vec<IpAddr>,
    /// A bootstrap credential: good enough to authenticate requests, due until a certificate of our own replaces it.
    pub provisional: bool,
    /// The chain as the driver keeps it (PEM for the bundled ones), leaf first. May be empty.
    pub chain: Arc<[u8]>,
}

/// The chain is shown by its length: facts belong in logs, blobs do not.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("fingerprint", &self.fingerprint)
            .field("common_name", &self.common_name)
            .field("organizations", &self.organizations)
            .field("dns_names", &self.dns_names)
            .field("ip_addresses", &self.ip_addresses)
            .field("not_before", &format_args!("{}", self.validity.not_before))
            .field("not_after", &format_args!("{}", self.validity.not_after))
            .field("provisional", &self.provisional)
            .field("chain", &format_args!("{} bytes", self.chain.len()))
            .finish()
    }
}
