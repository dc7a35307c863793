//! Text and times in HTML.

use std::fmt::{Display, Formatter, Result, Write as _};

use perennial::{Escaped, UnixTime};

/// Text from outside as HTML, for elements and quoted attributes: the characters that HTML interprets are references
/// (`&lt;`), and control characters are [`Escaped`].
pub(super) struct Text<'a>(pub(super) &'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        Escaped(self.0).to_string().chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => f.write_char(c),
        })
    }
}

/// A time as an element, to the second: `<time datetime="2026-01-02T03:04:05Z">2026-01-02 03:04:05 UTC</time>`.
pub(super) struct Time(pub(super) UnixTime);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let at = UnixTime::from_secs(self.0.as_secs()).to_string();
        let words = at.replace('T', " ").replace('Z', " UTC");
        write!(f, "<time datetime=\"{at}\">{words}</time>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_no_markup_and_no_control_characters() {
        let hostile = "<script>'\"&amp;\n\u{1b}[31m\u{202e}";
        let expected = r"&lt;script&gt;&#39;&quot;&amp;amp;\n\u{1b}[31m\u{202e}";
        assert_eq!(Text(hostile).to_string(), expected);
    }

    #[test]
    fn time_is_shown_to_the_second_in_utc() {
        let shown = Time(UnixTime::from_millis(1_767_323_045_678)).to_string();
        assert_eq!(shown, "<time datetime=\"2026-01-02T03:04:05Z\">2026-01-02 03:04:05 UTC</time>");
    }
}
