//! Walking DER (X.690 §10) in place, for secrets must not be copied.

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;

/// The content of the value at the front, which has this tag, and what follows the value.
pub(crate) fn take(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = next(der)?;
    (found == tag).then_some((content, rest))
}

/// The content of the value at the front, which has this tag; as much of it as there is.
pub(crate) fn enter(tag: u8, der: &[u8]) -> Option<&[u8]> {
    let (found, length, rest) = header(der)?;
    (found == tag).then(|| &rest[..length.min(rest.len())])
}

/// Tag and content of the value at the front, and what follows the value.
pub(crate) fn next(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, length, rest) = header(der)?;
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Tag and length of the value at the front, and what follows them. Lengths in their shortest form, up to 16 MiB.
fn header(der: &[u8]) -> Option<(u8, usize, &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk()?;
    if length < 0x80 {
        return Some((tag, usize::from(length), rest));
    }
    let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
    let shortest = *bytes.first()? != 0 && (bytes.len() > 1 || bytes[0] >= 0x80) && bytes.len() <= 3;
    let length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    (shortest && tag & 0x1f != 0x1f).then_some((tag, length, rest))
}
