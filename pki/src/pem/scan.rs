//! Finds the PEM blocks among other text.
//!
//! Decodes a block on demand only, so that reading the certificates of a file does not decode the key beside them.
//! rustls' decoder decodes keys, in constant time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::{PemObject, SectionKind};
use zeroize::Zeroizing;

use super::{PemError, foreign};

/// The blocks of a PEM text, and the damage between them.
pub(crate) struct Text<'a> {
    pub(crate) blocks: Vec<Block<'a>>,
    /// The damage found, in the order of the text.
    pub(crate) damage: Vec<PemError>,
    input: &'a [u8],
}

/// A block with matching boundaries and base64 between them, not yet decoded.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    /// The number of the block in the text, counted from 1 as in [`PemError`].
    pub(crate) number: usize,
    /// The line of the block's `-----BEGIN …`, counted from 1.
    pub(crate) line: usize,
    pub(crate) label: &'a str,
    /// True if a byte order mark precedes the block, which hides the block from Go and openssl.
    pub(crate) is_marked: bool,
    /// The `Name: value` lines at the beginning of the block (RFC 1421 §4.6), empty if there are none.
    headers: &'a [u8],
    body: &'a [u8],
}

impl Block<'_> {
    /// True if the label is one under which Go's crypto/tls searches for a key. The label does not decide the encoding.
    pub(crate) fn is_key(&self) -> bool {
        self.label == "PRIVATE KEY" || self.label.ends_with(" PRIVATE KEY")
    }

    /// True if the block is an encrypted key, by its label (PKCS#8) or by its headers (openssl's older format).
    pub(crate) fn is_encrypted_key(&self) -> bool {
        let is_marked_encrypted = |text: &[u8]| text.windows(9).any(|window| window == b"ENCRYPTED");
        self.is_key() && (is_marked_encrypted(self.label.as_bytes()) || is_marked_encrypted(self.headers))
    }

    /// Decodes the content of the block.
    ///
    /// # Errors
    /// [`PemError::NotBase64`]: the decoder refuses the content, for example since it has bits after the last whole
    /// byte.
    pub(crate) fn der(&self) -> Result<Zeroizing<Vec<u8>>, PemError> {
        if !self.is_key() {
            // No secret: the fast decoder.
            let text: Vec<u8> = self.body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
            return STANDARD.decode(text).map(Zeroizing::new).map_err(|_| self.not_base64());
        }
        // rustls' decoder wants a label that it knows, and no headers.
        const BOUNDARIES: [&[u8]; 2] = [b"-----BEGIN PRIVATE KEY-----\n", b"\n-----END PRIVATE KEY-----\n"];
        let mut text = Zeroizing::new(Vec::with_capacity(self.body.len() + BOUNDARIES.concat().len()));
        text.extend_from_slice(BOUNDARIES[0]);
        text.extend(self.body.iter().filter(|byte| !byte.is_ascii_whitespace()));
        text.extend_from_slice(BOUNDARIES[1]);
        match <(SectionKind, Vec<u8>)>::from_pem_slice(&text) {
            Ok((_, der)) => Ok(Zeroizing::new(der)),
            Err(_) => Err(self.not_base64()),
        }
    }

    /// True if the block's body consists of padded base64 (RFC 4648 §4) and white space.
    fn is_base64(&self) -> bool {
        let (mut digits, mut padding) = (0_usize, 0_usize);
        for byte in self.body {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding == 0 => digits += 1,
                b'=' => padding += 1,
                byte if byte.is_ascii_whitespace() => {}
                _ => return false,
            }
        }
        padding <= 2 && (digits + padding) % 4 == 0
    }

    /// Returns an error if the block's label is not `CERTIFICATE`, or if the block has headers.
    pub(crate) fn require_certificate(&self) -> Result<(), PemError> {
        let Self { number: block, line, label, .. } = *self;
        let label = label.to_owned();
        if label != super::CERTIFICATE {
            Err(PemError::Unexpected { block, line, label })
        } else if self.headers.is_empty() {
            Ok(())
        } else {
            Err(PemError::Headers { block, line, label })
        }
    }

    fn not_base64(&self) -> PemError {
        PemError::NotBase64 { block: self.number, line: self.line, label: self.label.to_owned() }
    }

    pub(crate) fn unusable(&self, reason: String) -> PemError {
        PemError::Unusable { block: self.number, line: self.line, reason }
    }
}

impl<'a> Text<'a> {
    /// Returns the text, or an error if a boundary shares its line with other text: the blocks that begin or end in
    /// that line are lost, and the caller may need one of them.
    pub(crate) fn unglued(self) -> Result<Self, PemError> {
        match self.damage.iter().find(|damage| matches!(damage, PemError::Glued { .. })) {
            Some(glued) => Err(glued.clone()),
            None => Ok(self),
        }
    }

    /// Returns the blocks, or an error if the text has any damage.
    pub(crate) fn undamaged(self) -> Result<Vec<Block<'a>>, PemError> {
        self.damage.into_iter().next().map_or(Ok(self.blocks), Err)
    }

    /// The reason why the wanted block is missing: damage, or a format that is not PEM; `None` if the text shows no
    /// reason.
    pub(crate) fn why_empty(&self) -> Option<PemError> {
        let labels: Vec<_> = self.blocks.iter().map(|block| block.label).collect();
        self.damage.first().cloned().or_else(|| foreign::recognize(self.input, &labels))
    }
}

/// The role of a line in a PEM text: a boundary of a block, or other text.
enum Line<'a> {
    Begin(&'a str),
    End(&'a str),
    /// A boundary that shares its line with other text.
    Glued,
    Text,
}

/// The state of [`read`] between two lines: outside or inside of a block.
enum State<'a> {
    Outside,
    Inside {
        number: usize,
        line: usize,
        label: &'a str,
        is_marked: bool,
        /// The offset in the input at which the content of the block begins.
        from: usize,
    },
    /// After a [glued](Line::Glued) line, which is listed as damage. If a block begins in that line, the block is lost,
    /// and the line that ends the block is not listed as further damage.
    Lost,
}

/// Finds all blocks of `input` and passes over other text, as Go's encoding/pem does. Unlike Go, also finds a block
/// directly after a byte order mark.
///
/// # Errors
/// [`PemError::TooLarge`] if `input` is longer than `most` bytes. Every other problem is listed in [`Text::damage`].
pub(crate) fn read(input: &[u8], most: usize) -> Result<Text<'_>, PemError> {
    if input.len() > most {
        return Err(PemError::TooLarge { bytes: input.len(), most });
    }
    let mut text = Text { blocks: Vec::new(), damage: Vec::new(), input };
    let (mut state, mut seen, mut position) = (State::Outside, 0, 0);
    for (number, line) in (1..).zip(input.split_inclusive(|byte| *byte == b'\n')) {
        let start = position;
        position += line.len();
        state = match (classify(line), state) {
            (Line::Text, state) => state,
            (Line::End(end), State::Inside { number, line, label, is_marked, from }) if end == label => {
                let (headers, body) = split(&input[from..start]);
                let block = Block { number, line, label, is_marked, headers, body };
                if block.is_base64() {
                    text.blocks.push(block)
                } else {
                    text.damage.push(block.not_base64())
                }
                State::Outside
            }
            (what, before) => {
                // A block was cut short if the boundary at its end has another label, or if another block begins in it.
                // If a glued line follows, only that line is reported.
                text.damage.extend(before.unclosed().filter(|_| !matches!(what, Line::Glued)));
                match what {
                    Line::Begin(label) => {
                        seen += 1;
                        State::Inside { number: seen, line: number, label, is_marked: is_marked(line), from: position }
                    }
                    Line::End(label) => {
                        if let State::Outside = before {
                            text.damage.push(PemError::Unopened { line: number, label: label.to_owned() });
                        }
                        State::Outside
                    }
                    Line::Glued => {
                        text.damage.push(PemError::Glued { line: number });
                        // Lost blocks count, too: the number of a block is the number of `BEGIN` boundaries so far.
                        seen += occurrences(line, BEGIN);
                        State::Lost
                    }
                    Line::Text => before,
                }
            }
        };
    }
    text.damage.extend(state.unclosed());
    Ok(text)
}

impl State<'_> {
    /// The damage of a block that is cut short, if a block is still open at a boundary that does not end it, or at the
    /// end of the text; otherwise `None`.
    fn unclosed(&self) -> Option<PemError> {
        let Self::Inside { number, line, label, .. } = *self else { return None };
        Some(PemError::Unclosed { block: number, line, label: label.to_owned() })
    }
}

/// Splits the content of a block into its headers (maybe none) and its base64 body.
fn split(content: &[u8]) -> (&[u8], &[u8]) {
    let is_header = |line: &&[u8]| line.contains(&b':');
    let headers = content.split_inclusive(|byte| *byte == b'\n').take_while(is_header).map(<[u8]>::len).sum();
    content.split_at(headers)
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

fn is_marked(line: &[u8]) -> bool {
    line.starts_with(BYTE_ORDER_MARK)
}

fn classify(line: &[u8]) -> Line<'_> {
    // Most lines are base64, which has no hyphens.
    if !line.contains(&b'-') {
        return Line::Text;
    }
    let bare = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    if let Some(label) = label(bare, BEGIN) {
        Line::Begin(label)
    } else if let Some(label) = label(bare, END) {
        Line::End(label)
    } else if [BEGIN, END].into_iter().any(|boundary| is_followed_by_hyphens(bare, boundary)) {
        Line::Glued
    } else {
        Line::Text
    }
}

/// The label of a boundary: `CERTIFICATE` of `-----BEGIN CERTIFICATE-----`. `None` if the line is no boundary, or if
/// the label is not made of words (RFC 7468 §3). Messages show labels; without the rule about words, a key in a text
/// without line ends could pass for a label, and messages would show the key.
fn label<'a>(line: &'a [u8], boundary: &[u8]) -> Option<&'a str> {
    let label = str::from_utf8(line.strip_prefix(boundary)?).ok()?.trim_end().strip_suffix("-----")?;
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
    label.split(['-', ' ']).all(is_word).then_some(label)
}

fn is_followed_by_hyphens(line: &[u8], boundary: &[u8]) -> bool {
    let at = line.windows(boundary.len()).position(|window| window == boundary);
    at.is_some_and(|at| occurrences(&line[at + boundary.len()..], b"-----") > 0)
}

fn occurrences(line: &[u8], of: &[u8]) -> usize {
    line.windows(of.len()).filter(|window| *window == of).count()
}

#[cfg(test)]
mod tests {
    use super::super::{CERTIFICATE, MAX_PAIR, encode};
    use super::*;

    const DER: &[u8] = &[0xab; 100];

    fn scan(text: &str) -> (Vec<(usize, usize, &str)>, Vec<PemError>) {
        let text = read(text.as_bytes(), MAX_PAIR).unwrap();
        for block in &text.blocks {
            assert_eq!(**block.der().unwrap(), *DER);
        }
        (text.blocks.iter().map(|block| (block.number, block.line, block.label)).collect(), text.damage)
    }

    fn unclosed(block: usize, line: usize) -> PemError {
        PemError::Unclosed { block, line, label: CERTIFICATE.into() }
    }

    #[test]
    fn read_finds_blocks_among_text() {
        let block = encode(CERTIFICATE, DER);
        let crlf = block.replace('\n', "\r\n");
        let text = format!("subject: x\r\n{crlf}\nnoise\n\u{feff}{}", block.replace("-\n", "- \t\n"));
        assert_eq!(scan(&text), (vec![(1, 2, CERTIFICATE), (2, 9, CERTIFICATE)], vec![]));
    }

    #[test]
    fn block_with_headers_is_decoded_but_fails_require_certificate() {
        let block = encode(CERTIFICATE, DER).replacen('\n', "\nName: value\nfriendlyName: \u{e9}\n\n", 1);
        assert_eq!(scan(&block), (vec![(1, 1, CERTIFICATE)], vec![]));
        let strict = read(block.as_bytes(), MAX_PAIR).unwrap().blocks[0].require_certificate();
        assert_eq!(strict, Err(PemError::Headers { block: 1, line: 1, label: CERTIFICATE.into() }));
    }

    #[test]
    fn read_skips_damaged_blocks_and_lists_the_damage() {
        let whole = encode(CERTIFICATE, DER);
        let lines = whole.lines().count();
        let cut = &whole[..whole.len() - 30];
        let not_base64 = whole.replacen("q6ur", "q!ur", 1);
        let other_end = whole.replace("END CERTIFICATE", "END X509 CRL");
        let found = |number, line| (number, line, CERTIFICATE);
        let not = |block, line| PemError::NotBase64 { block, line, label: CERTIFICATE.into() };
        let unopened = |line| PemError::Unopened { line, label: CERTIFICATE.into() };
        for (text, blocks, damage) in [
            (cut.to_owned(), vec![], vec![unclosed(1, 1)]),
            (format!("{}{cut}", *whole), vec![found(1, 1)], vec![unclosed(2, lines + 1)]),
            (format!("{cut}\n{}", *whole), vec![found(2, lines)], vec![unclosed(1, 1)]),
            (format!("{not_base64}{}", *whole), vec![found(2, lines + 1)], vec![not(1, 1)]),
            (format!("{other_end}{}", *whole), vec![found(2, lines + 1)], vec![unclosed(1, 1)]),
            (whole.replace("=\n", "\n"), vec![], vec![not(1, 1)]),
            (whole.lines().skip(1).map(|line| format!("{line}\n")).collect(), vec![], vec![unopened(lines - 1)]),
        ] {
            assert_eq!(scan(&text), (blocks, damage), "{text}");
        }
    }

    #[test]
    fn boundary_that_shares_its_line_loses_only_adjacent_blocks() {
        let whole = encode(CERTIFICATE, DER);
        let (lines, bare) = (whole.lines().count(), whole.trim_end());
        let glued = |line| vec![PemError::Glued { line }];
        let found = |number, line| (number, line, CERTIFICATE);
        for (text, blocks, damage) in [
            (format!("{bare}{}", *whole), vec![], glued(lines)),
            (format!("{}{bare}{}{}", *whole, *whole, *whole), vec![found(1, 1), found(4, 3 * lines)], glued(2 * lines)),
            (format!("text{}{}", *whole, *whole), vec![found(2, lines + 1)], glued(1)),
            (format!("  {}", whole.replace('\n', "\n  ")), vec![], [glued(1), glued(lines)].concat()),
            (whole.replace("\n-----END", "-----END"), vec![], glued(lines - 1)),
            (whole.replace('\n', ""), vec![], glued(1)),
        ] {
            assert_eq!(scan(&text), (blocks, damage), "{text}");
        }
    }

    #[test]
    fn boundary_with_invalid_label_is_reported_as_damage() {
        let pem = encode("PRIVATE KEY", DER);
        let in_one_line = pem.replace('\n', "");
        for text in [&in_one_line, "-----BEGIN \x1b[1mKEY-----\nAA==\n", "-----BEGIN -----\n", "-----BEGIN A  B-----\n"]
        {
            let found = read(text.as_bytes(), MAX_PAIR).unwrap();
            assert!(found.blocks.is_empty(), "{text:?}");
            assert_eq!(found.damage, [PemError::Glued { line: 1 }], "{text:?}");
        }
        let found = read(b"-----BEGIN X-Y Z.1-----\n-----END X-Y Z.1-----", MAX_PAIR).unwrap();
        assert_eq!(found.blocks[0].label, "X-Y Z.1");
    }

    #[test]
    fn read_refuses_input_over_limit() {
        let input = vec![b'\n'; MAX_PAIR + 1];
        assert_eq!(read(&input, MAX_PAIR).err(), Some(PemError::TooLarge { bytes: MAX_PAIR + 1, most: MAX_PAIR }));
    }
}
