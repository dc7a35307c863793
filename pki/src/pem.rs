//! PEM (RFC 7468): finding blocks among text, and writing them.
//!
//! Blocks are found here and decoded one by one on demand, so that looking for certificates in a
//! bundle does not decode the key next to them. The decoding itself is rustls', constant-time for keys.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::{PemObject, SectionKind};
use zeroize::Zeroizing;

/// More than any sensible chain, key or CA bundle.
const MAX_INPUT: usize = 1 << 20;

pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
pub(crate) const CERTIFICATE_REQUEST: &str = "CERTIFICATE REQUEST";

/// Text that is not PEM where PEM was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PemError {
    /// The input is larger than 1 MiB.
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// A block starts and does not end: a truncated file.
    Unclosed {
        /// Which block of the input, counted from 1.
        block: usize,
        /// Its label, such as `CERTIFICATE`.
        label: String,
    },
    /// What a block contains is not base64.
    NotBase64 {
        /// Which block of the input, counted from 1.
        block: usize,
        /// Its label, such as `CERTIFICATE`.
        label: String,
    },
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes } => {
                write!(f, "{bytes} bytes are more than a PEM input may have (1 MiB); is this the right file?")
            }
            Self::Unclosed { block, label } => {
                write!(f, "PEM block {block} ({label}) has no `-----END {label}-----` line; the input is cut short")
            }
            Self::NotBase64 { block, label } => write!(f, "PEM block {block} ({label}) does not contain plain base64"),
        }
    }
}

impl std::error::Error for PemError {}

/// A block, not yet decoded.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    /// Counted from 1, as in [`PemError`].
    pub(crate) number: usize,
    pub(crate) label: &'a str,
    /// From the `BEGIN` line to the `END` line, both included.
    text: &'a [u8],
}

impl Block<'_> {
    /// Whether this is a key behind a passphrase, in PKCS#8's or in openssl's older way.
    pub(crate) fn is_encrypted_key(&self) -> bool {
        self.label == "ENCRYPTED PRIVATE KEY"
            || self.label.ends_with("PRIVATE KEY") && self.text.windows(9).any(|window| window == b"ENCRYPTED")
    }

    /// The block as a `T`, or `None` if its label is not that of a `T`.
    pub(crate) fn decode<T: PemObject>(&self) -> Result<Option<T>, PemError> {
        T::pem_slice_iter(self.text)
            .next()
            .transpose()
            .map_err(|_| PemError::NotBase64 { block: self.number, label: self.label.to_owned() })
    }

    /// The content of the block, `None` for a label rustls does not know.
    pub(crate) fn der(&self) -> Result<Option<Vec<u8>>, PemError> {
        Ok(self.decode::<(SectionKind, Vec<u8>)>()?.map(|(_, der)| der))
    }
}

/// All blocks of `input`; whatever stands around them is skipped.
pub(crate) fn blocks(input: &[u8]) -> Result<Vec<Block<'_>>, PemError> {
    if input.len() > MAX_INPUT {
        return Err(PemError::TooLarge { bytes: input.len() });
    }
    let mut blocks = Vec::new();
    let mut open: Option<(&str, usize)> = None;
    let mut position = 0;
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let start = position;
        position += line.len();
        match open {
            None => open = label(line, "BEGIN").map(|label| (label, start)),
            Some((opened, from)) if label(line, "END") == Some(opened) => {
                blocks.push(Block { number: blocks.len() + 1, label: opened, text: &input[from..position] });
                open = None;
            }
            // A block within a block: the outer one was cut short.
            Some(_) if label(line, "BEGIN").is_some() => break,
            Some(_) => {}
        }
    }
    match open {
        None => Ok(blocks),
        Some((label, _)) => Err(PemError::Unclosed { block: blocks.len() + 1, label: label.to_owned() }),
    }
}

/// `CERTIFICATE` of `-----BEGIN CERTIFICATE-----`. A label is words (RFC 7468 §3), and messages show it: what stands
/// between the hyphens of a text that has lost its line ends is a whole key.
fn label<'a>(line: &'a [u8], boundary: &str) -> Option<&'a str> {
    let line = str::from_utf8(line).ok()?.trim_end();
    let label = line.strip_prefix("-----")?.strip_prefix(boundary)?.strip_prefix(' ')?.strip_suffix("-----")?;
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
    label.split(['-', ' ']).all(is_word).then_some(label)
}

/// One block, lines of 64 characters. Wiped on drop, for it may be a key.
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

    const DER: &[u8] = &[0xab; 100];

    #[test]
    fn what_is_encoded_is_found_again_among_text() {
        let block = encode(CERTIFICATE, DER);
        let text = format!("subject: x\r\n{}\nnoise\n{}", block.replace('\n', "\r\n"), *block);
        let found = blocks(text.as_bytes()).unwrap();
        assert_eq!(found.iter().map(|b| (b.number, b.label)).collect::<Vec<_>>(), [(1, CERTIFICATE), (2, CERTIFICATE)]);
        for block in found {
            assert_eq!(block.der().unwrap().unwrap(), DER);
        }
    }

    #[test]
    fn encoding_fits_the_room_made_for_it() {
        for length in [0, 1, 47, 48, 49, 96, 97] {
            let pem = encode("RSA PRIVATE KEY", &vec![7; length]);
            assert!(pem.lines().all(|line| line.len() <= 64));
        }
    }

    #[test]
    fn a_cut_block_is_named() {
        let whole = encode(CERTIFICATE, DER);
        let cut = &whole[..whole.len() - 30];
        let unclosed = |block| Some(PemError::Unclosed { block, label: CERTIFICATE.into() });
        assert_eq!(blocks(cut.as_bytes()).err(), unclosed(1));
        assert_eq!(blocks(format!("{}{cut}", *whole).as_bytes()).err(), unclosed(2));
        assert_eq!(blocks(format!("{cut}\n{}", *whole).as_bytes()).err(), unclosed(1));
    }

    #[test]
    fn a_label_is_words_and_nothing_else_is_shown_as_one() {
        let pem = encode("PRIVATE KEY", DER);
        let in_one_line = pem.replace('\n', "");
        for text in [&in_one_line, "-----BEGIN \x1b[1mKEY-----\nAA==\n", "-----BEGIN -----\n", "-----BEGIN A  B-----\n"]
        {
            assert_eq!(blocks(text.as_bytes()).map(|found| found.len()), Ok(0), "{text:?}");
        }
        assert_eq!(blocks(b"-----BEGIN X-Y Z.1-----\n-----END X-Y Z.1-----").unwrap()[0].label, "X-Y Z.1");
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        let text = "-----BEGIN CERTIFICATE-----\nM!!!\n-----END CERTIFICATE-----";
        let found = blocks(text.as_bytes()).unwrap();
        assert!(matches!(found[0].der(), Err(PemError::NotBase64 { block: 1, .. })));
    }

    #[test]
    fn huge_input_is_refused_unread() {
        assert!(matches!(blocks(&vec![b'\n'; MAX_INPUT + 1]), Err(PemError::TooLarge { .. })));
    }
}
