//! PEM text (RFC 7468).

use pem::{EncodeConfig, LineEnding, Pem};

/// No input is larger: chains and keys are a few kilobytes.
pub(crate) const MAX_PEM: usize = 1 << 20;

/// One block, lines ended as Unix ends them.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    pem::encode_config(&Pem::new(label, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}

/// Every block, in order; text around them is skipped.
pub(crate) fn blocks(bytes: &[u8]) -> Result<Vec<Pem>, pem::PemError> {
    pem::parse_many(bytes)
}
