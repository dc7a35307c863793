//! PEM (RFC 7468): reads blocks among text as Go's encoding/pem and openssl do, and writes blocks.

mod error;
mod foreign;
mod scan;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

pub use error::PemError;
pub(crate) use scan::{Block, Text, read};

/// The size limit for the PEM text of a chain, a key or a CSR: 1 MiB.
pub(crate) const MAX_PAIR: usize = 1 << 20;
/// The size limit for a CA bundle: 8 MiB, room for the system bundles of several distributions.
pub(crate) const MAX_BUNDLE: usize = 8 << 20;

pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
pub(crate) const CERTIFICATE_REQUEST: &str = "CERTIFICATE REQUEST";
/// The label of a block with the reference of a key that stays elsewhere, as UTF-8 text. The label does not end in
/// `PRIVATE KEY`, since Go would decode such a block as a key.
pub(crate) const KEY_REFERENCE: &str = "KEY REFERENCE";

/// Encodes DER as one PEM block, in lines of 64 characters. The text is wiped on drop, since it may be a key.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    const BYTES_PER_LINE: usize = 48;
    // Room for all of it at once: a string that grows leaves copies of itself behind.
    let capacity = 2 * label.len() + 40 + der.len().div_ceil(BYTES_PER_LINE) * 65;
    let mut pem = Zeroizing::new(String::with_capacity(capacity));
    for part in ["-----BEGIN ", label, "-----\n"] {
        pem.push_str(part);
    }
    for line in der.chunks(BYTES_PER_LINE) {
        STANDARD.encode_string(line, &mut pem);
        pem.push('\n');
    }
    for part in ["-----END ", label, "-----\n"] {
        pem.push_str(part);
    }
    debug_assert!(pem.len() <= capacity);
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_fits_its_buffer_and_wraps_at_64_characters() {
        for length in [0, 1, 47, 48, 49, 96, 97] {
            let pem = encode("RSA PRIVATE KEY", &vec![7; length]);
            assert!(pem.lines().all(|line| line.len() <= 64));
        }
    }
}
