//! The facts of a certificate by which the machine judges it. The driver reads them from X.509.

use core::fmt;
use core::time::Duration;

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

/// The facts of a certificate by which the machine judges it. The certificate itself stays with the driver, which finds
/// it by the fingerprint.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// The validity period of the leaf.
    pub validity: Validity,
    /// SHA-256 of the leaf. Identifies the certificate.
    pub fingerprint: Fingerprint,
    /// Subject and subject alternative names, in the form of a template that requests exactly these names.
    ///
    /// A certificate that shares this value with the template of its machine, as after
    /// [`sharing_names`](Self::sharing_names), needs no memory for names, and its names are compared by address.
    pub names: Arc<Template>,
    /// True for a bootstrap credential, which authenticates requests and is due until an issued certificate replaces
    /// it.
    pub provisional: bool,
}

impl Certificate {
    /// A certificate with exactly the names of `template`, not provisional.
    pub fn for_template(template: impl Into<Arc<Template>>, validity: Validity, fingerprint: Fingerprint) -> Self {
        Self { validity, fingerprint, names: template.into(), provisional: false }
    }

    /// Shares the names with `template` if the certificate has exactly the template's names. Otherwise, the certificate
    /// keeps its own.
    #[must_use]
    pub fn sharing_names(mut self, template: &Arc<Template>) -> Self {
        if self.names == *template {
            self.names = template.clone();
        }
        self
    }

    /// The subject's common name. Empty if there is none.
    pub fn common_name(&self) -> &str {
        self.names.common_name()
    }
}

/// Shows all facts.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("fingerprint", &self.fingerprint)
            .field("names", &format_args!("{}", self.names))
            .field("not_before", &format_args!("{}", self.validity.not_before))
            .field("not_after", &format_args!("{}", self.validity.not_after))
            .field("provisional", &self.provisional)
            .finish()
    }
}
