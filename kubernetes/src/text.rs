//! Decoding text files as editors and shells write them: UTF-8, or UTF-16 with a byte order mark.

use zeroize::Zeroizing;

/// Decodes a text file: UTF-8, or UTF-16 with a byte order mark, as PowerShell's `>` writes it. A byte order mark is
/// dropped.
///
/// The result is wiped on drop, since tokens and kubeconfigs are secrets.
///
/// # Errors
/// [`TextError`] if the bytes are neither UTF-8, nor UTF-16 with a byte order mark.
pub fn decode(bytes: &[u8]) -> Result<Zeroizing<String>, TextError> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units: Zeroizing<Vec<u16>> = Zeroizing::new(pairs.iter().copied().map(unit).collect());
        // Room for all of it at once: a growing `String` leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(3 * units.len()));
        for c in char::decode_utf16(units.iter().copied()) {
            text.push(c.map_err(|_| TextError::BrokenUtf16)?);
        }
        if rest.is_empty() { Ok(text) } else { Err(TextError::BrokenUtf16) }
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest),
        bytes => utf8(bytes),
    }
}

fn utf8(bytes: &[u8]) -> Result<Zeroizing<String>, TextError> {
    // In UTF-16, every second byte of ASCII is zero; text in UTF-8 has no zero bytes.
    if bytes.iter().take(64).any(|byte| *byte == 0) {
        return Err(TextError::Zeros);
    }
    let text = str::from_utf8(bytes).map_err(|error| {
        let line = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() + 1;
        TextError::NotUtf8 { line }
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Why a file cannot be decoded as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The bytes are neither UTF-8, nor UTF-16 with a byte order mark.
    #[error("line {line} is not UTF-8; save the file as UTF-8")]
    NotUtf8 {
        /// The line of the first byte that is not UTF-8, counted from 1.
        line: usize,
    },
    /// There are NUL bytes among the first 64 bytes, as in UTF-16 without a byte order mark.
    #[error("the file contains NUL bytes: it is UTF-16 without a byte order mark, or not text; save the file as UTF-8")]
    Zeros,
    /// The bytes begin with the byte order mark of UTF-16, but the rest is not valid UTF-16.
    #[error("the file begins as UTF-16 and is not valid UTF-16; save the file as UTF-8")]
    BrokenUtf16,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "kind: Config # é\u{1f511}\n";

    fn utf16(mark: &[u8], unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
        mark.iter().copied().chain(TEXT.encode_utf16().flat_map(unit)).collect()
    }

    #[test]
    fn byte_order_mark_selects_encoding() {
        let utf8 = [b"\xef\xbb\xbf", TEXT.as_bytes()].concat();
        let little = utf16(b"\xff\xfe", u16::to_le_bytes);
        let big = utf16(b"\xfe\xff", u16::to_be_bytes);
        for bytes in [TEXT.as_bytes().to_vec(), utf8, little, big] {
            assert_eq!(decode(&bytes).as_deref().map(String::as_str), Ok(TEXT), "{bytes:?}");
        }
        assert_eq!(decode(b"").as_deref().map(String::as_str), Ok(""));
    }

    #[test]
    fn undecodable_bytes_are_refused_with_remedy() {
        let mut odd = utf16(b"\xff\xfe", u16::to_le_bytes);
        odd.pop();
        for (bytes, error) in [
            (b"a\nb\xff".to_vec(), TextError::NotUtf8 { line: 2 }),
            (utf16(b"", u16::to_le_bytes), TextError::Zeros),
            (odd, TextError::BrokenUtf16),
            (b"\xff\xfe\x00\xd8".to_vec(), TextError::BrokenUtf16),
        ] {
            assert_eq!(decode(&bytes), Err(error));
            assert!(error.to_string().contains("save the file as UTF-8"));
        }
    }
}
