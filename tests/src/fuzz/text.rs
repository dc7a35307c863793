//! The encoding of text in fuzz inputs.

/// The byte that ends a piece of text.
const END: u8 = 0xff;
/// The byte that begins a stand-in of two bytes. The second byte selects the word that replaces the stand-in.
const STAND_IN: u8 = 0xfe;
/// A limit on the length of an expanded text in bytes. Once the text is this long, each further stand-in is removed and
/// not replaced by its word.
const LONGEST: usize = 16 << 10;

/// The pieces of `bytes`, which [`END`] separates.
pub(super) fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == END)
}

/// The first byte of input (zero if there is none), and the rest.
pub(super) fn first(bytes: &[u8]) -> (u8, &[u8]) {
    bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest))
}

/// `text` with words in place of its stand-ins (see [`STAND_IN`]).
pub(super) fn expand(text: &[u8], words: &[Vec<u8>]) -> Vec<u8> {
    let mut expanded = Vec::new();
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match (*byte, bytes.as_slice().first()) {
            (STAND_IN, Some(which)) => {
                bytes.next();
                if expanded.len() < LONGEST {
                    expanded.extend_from_slice(&words[usize::from(*which) % words.len()]);
                }
            }
            (byte, _) => expanded.push(byte),
        }
    }
    expanded
}
