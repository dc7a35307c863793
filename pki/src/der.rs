//! Writing DER: the few types a PKCS#10 request is made of.
//!
//! rcgen's `DistinguishedName` holds one value per attribute type, but a subject may name several organisations.

pub(crate) const INTEGER_0: &[u8] = &[0x02, 0x01, 0x00];
pub(crate) const TRUE: &[u8] = &[0x01, 0x01, 0xff];

pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
/// `[0]`, constructed.
pub(crate) const CONTEXT_0: u8 = 0xa0;

/// One element: tag, length, and `parts` one after the other as its content.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut der = vec![tag];
    if length < 0x80 {
        der.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let significant = &bytes[length.leading_zeros() as usize / 8..];
        der.push(0x80 | significant.len() as u8);
        der.extend_from_slice(significant);
    }
    parts.iter().for_each(|part| der.extend_from_slice(part));
    der
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(SEQUENCE, parts)
}

/// `SET OF`: DER wants the elements in ascending order of their encodings.
pub(crate) fn set_of(mut elements: Vec<Vec<u8>>) -> Vec<u8> {
    elements.sort_unstable();
    element(SET, &[&elements.concat()])
}

/// A BIT STRING of whole bytes.
pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_shortest_form() {
        for (length, header) in [
            (0x7f, &[0x04, 0x7f][..]),
            (0x80, &[0x04, 0x81, 0x80]),
            (0xff, &[0x04, 0x81, 0xff]),
            (0x100, &[0x04, 0x82, 0x01, 0x00]),
        ] {
            let der = element(OCTET_STRING, &[&vec![0; length]]);
            assert_eq!(der[..header.len()], *header);
            assert_eq!(der.len(), header.len() + length);
        }
    }

    #[test]
    fn sets_are_sorted() {
        assert_eq!(set_of(vec![vec![5, 1], vec![4, 9]]), [SET, 4, 4, 9, 5, 1]);
    }
}
