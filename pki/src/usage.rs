//! Extended key usages and key usages.

/// An extended key usage (RFC 5280 §4.2.1.12): the side of TLS on which a certificate is used. `Display` is the value
/// in `spec.usages` of a Kubernetes request, such as `client auth`.
#[derive(Clone, Copy, Debug, derive_more::Display, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Usage {
    /// The certificate authenticates a client.
    #[display("client auth")]
    ClientAuth,
    /// The certificate authenticates a server.
    #[display("server auth")]
    ServerAuth,
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
#[non_exhaustive]
pub enum KeyUsage {
    /// The key may sign handshakes. TLS 1.3 needs no other key usage.
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
