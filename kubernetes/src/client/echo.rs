//! Hides the token of a request where the server's answer repeats it, since logs quote answers.

use perennial_rotation::Token;

/// The replacement of an echoed token.
const BLOT: &str = "[token]";

/// Replaces each copy of `token` in `text`, which is part of an answer that logs may quote.
pub(super) fn hide_token(token: &Token, text: &mut Vec<u8>) {
    /// The shortest token that is replaced: a shorter one is no secret, and may be part of any word.
    const SHORTEST: usize = 8;
    let secret = token.reveal().as_bytes();
    if secret.len() < SHORTEST {
        return;
    }
    let mut from = 0;
    while let Some(at) = find(&text[from..], secret) {
        text.splice(from + at..from + at + secret.len(), BLOT.bytes());
        from += at + BLOT.len();
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
