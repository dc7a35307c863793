//! Extended key usages and key usages.

use std::fmt;

/// The side of TLS on which a certificate is used: an extended key usage (RFC 5280 §4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// The certificate authenticates a client.
    ClientAuth,
    /// The certificate authenticates a server.
    ServerAuth,
}

/// Displays the usage as in `spec.usages` of a Kubernetes request.
impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientAuth => "client auth",
            Self::ServerAuth => "server auth",
        })
    }
}

impl Usage {
    pub(crate) const fn oid(self) -> &'static [u64] {
        match self {
            Self::ServerAuth => &[1, 3, 6, 1, 5, 5, 7, 3, 1],
            Self::ClientAuth => &[1, 3, 6, 1, 5, 5, 7, 3, 2],
        }
    }
}

/// A key usage of a certificate (RFC 5280 §4.2.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyUsage {
    /// The key may sign. TLS 1.3 needs no other key usage.
    DigitalSignature,
    /// The key may encrypt keys, as the RSA key exchange of TLS 1.2 does.
    KeyEncipherment,
}

impl KeyUsage {
    pub(crate) const fn bit(self) -> u8 {
        match self {
            Self::DigitalSignature => 0b1000_0000,
            Self::KeyEncipherment => 0b0010_0000,
        }
    }
}
