//! What a certificate and its key may be used for.

use std::fmt;

/// What a certificate is used for in TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// To prove who is calling.
    ClientAuth,
    /// To prove who is being called.
    ServerAuth,
}

/// As Kubernetes writes it in `spec.usages`.
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

/// What the key of a certificate may be used for (RFC 5280 §4.2.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyUsage {
    /// To sign, as all of TLS 1.3 does.
    DigitalSignature,
    /// To encrypt keys, as TLS 1.2 may do with RSA.
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
