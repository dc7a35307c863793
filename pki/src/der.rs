//! Reads DER (X.690 §10) in place, since keys must not be copied. Checks rules of DER that x509-parser does not
//! enforce.

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;

/// The bit in a tag that marks a constructed value: its content is a series of values.
const CONSTRUCTED: u8 = 0x20;
/// The deepest nesting of values that [`check`] accepts. The values in certificates are nested less deeply.
const DEEPEST: usize = 32;

/// Returns the content of the first value in `der`, and the bytes after the value; `None` unless the value has this
/// tag.
pub(crate) fn take(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = next(der)?;
    (found == tag).then_some((content, rest))
}

/// Returns the content of the first value in `der`. If `der` is cut short, returns the part of the content that `der`
/// has. `None` unless the value has this tag.
pub(crate) fn enter(tag: u8, der: &[u8]) -> Option<&[u8]> {
    let (found, length, rest) = header(der)?;
    (found == tag).then(|| &rest[..length.min(rest.len())])
}

/// Returns tag and content of the first value in `der`, and the bytes after the value; `None` if the value is cut
/// short.
pub(crate) fn next(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, length, rest) = header(der)?;
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Returns tag and length of the first value in `der`, and the bytes after the length; `None` if tag or length is
/// malformed or missing. Accepts only tags of one byte, as Go's `cryptobyte` does, and lengths below 16 MiB in their
/// shortest form.
fn header(der: &[u8]) -> Option<(u8, usize, &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    if length < 0x80 {
        return Some((tag, usize::from(length), rest));
    }
    let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
    let shortest = *bytes.first()? != 0 && (bytes.len() > 1 || bytes[0] >= 0x80) && bytes.len() <= 3;
    let length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    shortest.then_some((tag, length, rest))
}

/// Checks that `der` is a series of complete DER values: lengths in their shortest form, booleans 00 or FF, integers
/// with at least one byte and in their shortest form. The content of strings is not checked.
///
/// # Errors
/// The violated rule as a clause, such as "a boolean is neither 00 nor FF".
pub(crate) fn check(mut der: &[u8]) -> Result<(), &'static str> {
    // The unchecked rests of the enclosing values. No recursion: hostile input must not overflow the stack.
    let mut outer = Vec::new();
    loop {
        if der.is_empty() {
            match outer.pop() {
                Some(rest) => der = rest,
                None => return Ok(()),
            }
            continue;
        }
        let (tag, content, rest) = next(der).ok_or("a tag or a length is malformed, or a value is cut short")?;
        match (tag, content) {
            (BOOLEAN, [0 | 0xff]) => {}
            (BOOLEAN, _) => return Err("a boolean is neither 00 nor FF"),
            (INTEGER, []) => return Err("a number has no digits"),
            (INTEGER, [0, 0..=0x7f, ..] | [0xff, 0x80..=0xff, ..]) => return Err("a number has superfluous digits"),
            _ => {}
        }
        der = rest;
        if tag & CONSTRUCTED != 0 {
            if outer.len() == DEEPEST {
                return Err("values are nested too deeply");
            }
            outer.push(rest);
            der = content;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_refuses_bytes_that_are_not_der() {
        for (der, verdict) in [
            (&b""[..], Ok(())),
            (b"\x30\x06\x01\x01\xff\x02\x01\x00", Ok(())),
            (b"\x02\x02\x00\x80", Ok(())),
            (b"\x02\x02\xff\x7f", Ok(())),
            (b"\x01\x01\x01", Err("a boolean is neither 00 nor FF")),
            (b"\x01\x02\xff\xff", Err("a boolean is neither 00 nor FF")),
            (b"\xa0\x03\x01\x01\x02", Err("a boolean is neither 00 nor FF")),
            (b"\x30\x02\x02\x00\x05\x00", Err("a number has no digits")),
            (b"\x02\x02\x00\x01", Err("a number has superfluous digits")),
            (b"\x02\x02\xff\x80", Err("a number has superfluous digits")),
            (b"\x04\x81\x01\x00", Err("a tag or a length is malformed, or a value is cut short")),
            (b"\x30\x80\x00\x00", Err("a tag or a length is malformed, or a value is cut short")),
            (b"\x30\x03\x04\x05\x00\x00", Err("a tag or a length is malformed, or a value is cut short")),
            (b"\x1f\x01\x00", Err("a tag or a length is malformed, or a value is cut short")),
            (b"\xbf\x1f\x00", Err("a tag or a length is malformed, or a value is cut short")),
            (b"\x04", Err("a tag or a length is malformed, or a value is cut short")),
        ] {
            assert_eq!(check(der), verdict, "{der:x?}");
        }
        let deep = (0..40).fold(Vec::new(), |inner: Vec<u8>, _| [&[SEQUENCE, inner.len() as u8], &inner[..]].concat());
        assert_eq!(check(&deep), Err("values are nested too deeply"));
    }
}
