//! Checks the text of a label selector: `labels.Parse` of apimachinery.

use std::iter::Peekable;

use perennial::printable;

use crate::names::{is_name, is_subdomain};

/// Checks a label selector as an API server does. An empty one is good.
///
/// # Errors
/// The first rule that the selector breaks, as a sentence.
pub(super) fn check(selector: &str) -> Result<(), String> {
    let mut tokens = Tokens(selector).peekable();
    if tokens.peek().is_none() {
        return Ok(());
    }
    loop {
        requirement(&mut tokens)?;
        match tokens.next() {
            None => return Ok(()),
            Some(",") => {}
            other => return Err(unexpected(other, "`,` or the end of the selector")),
        }
    }
}

/// Checks `KEY`, `!KEY`, `KEY = VALUE` or `KEY in (VALUES)`, with another operator as well.
fn requirement<'a>(tokens: &mut Peekable<Tokens<'a>>) -> Result<(), String> {
    let is_absence = tokens.next_if_eq(&"!").is_some();
    key(tokens.next())?;
    // `!KEY` takes no operator.
    if is_absence || matches!(tokens.peek(), None | Some(&",")) {
        return Ok(());
    }
    match tokens.next() {
        // The value may be empty.
        Some("=" | "==" | "!=") => tokens.next_if(|token| *token != ",").map_or(Ok(()), value),
        Some("in" | "notin") => values(tokens),
        Some("<" | ">") => match tokens.next() {
            Some(number) if number.parse::<i64>().is_ok() => value(number),
            other => Err(unexpected(other, "a whole number after `<` or `>`")),
        },
        other => Err(unexpected(other, "one of =, ==, !=, in, notin, < and > after the key of a label")),
    }
}

/// Checks the values in parentheses, each of which may be empty.
fn values<'a>(tokens: &mut Peekable<Tokens<'a>>) -> Result<(), String> {
    const MORE: &str = "`,` or `)` after a value";
    if tokens.next_if_eq(&"(").is_none() {
        return Err(unexpected(tokens.next(), "`(` after `in` or `notin`"));
    }
    loop {
        if let Some(token) = tokens.next_if(|token| ![",", ")"].contains(token)) {
            value(token)?;
        }
        match tokens.next() {
            Some(",") => {}
            Some(")") => return Ok(()),
            other => return Err(unexpected(other, MORE)),
        }
    }
}

/// Checks the key of a label (`IsQualifiedName`): a name, which may have a DNS subdomain and a slash in front.
fn key(token: Option<&str>) -> Result<(), String> {
    let Some(key) = token else { return Err(unexpected(None, "the key of a label")) };
    let (domain, name) = key.split_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    if domain.is_none_or(is_subdomain) && is_name(name) {
        return Ok(());
    }
    Err(format!(
        "`{}` is no key of a label: expected at most 63 letters, digits, `-`, `_` and `.`, such as tier, or with a domain \
         in front, such as example.com/tier",
        printable(key)
    ))
}

/// Checks a value of a label (`IsValidLabelValue`) that is not empty.
fn value(value: &str) -> Result<(), String> {
    if is_name(value) {
        return Ok(());
    }
    Err(format!(
        "`{}` is no value of a label: expected at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at \
         both ends",
        printable(value)
    ))
}

fn unexpected(found: Option<&str>, expected: &str) -> String {
    match found {
        Some(token) => format!("unexpected `{}` in the label selector: expected {expected}", printable(token)),
        None => format!("the label selector ends too early: expected {expected}"),
    }
}

/// The tokens of a selector: operators, commas, parentheses, and the words between them.
struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let is_space = |letter: char| [' ', '\t', '\r', '\n'].contains(&letter);
        let is_symbol = |letter: char| "=!(),<>".contains(letter);
        let text = self.0.trim_start_matches(is_space);
        let length = match text.chars().next()? {
            '=' | '!' if text[1..].starts_with('=') => 2,
            letter if is_symbol(letter) => 1,
            _ => text.find(|letter| is_space(letter) || is_symbol(letter)).unwrap_or(text.len()),
        };
        let (token, rest) = text.split_at(length);
        self.0 = rest;
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_of_kubectl_are_good() {
        let longest = format!("{}/{} = {}", "d".repeat(253), "n".repeat(63), "v".repeat(63));
        for selector in [
            "",
            " ",
            "tier",
            "!tier",
            "! example.com/tier",
            "a=b,c==d,e!=f",
            "a = b , c != d",
            "a=",
            "a=,b",
            "a in (b, c),d notin (e)",
            "x in (foo,,baz),y,z notin ()",
            "a in(b)",
            "a in (,)",
            "in in (in, notin)",
            "notin",
            "a=in",
            "a>1,b<22",
            "A.b_c-d=1.x_Y-z",
            &longest,
        ] {
            assert_eq!(check(selector), Ok(()), "{selector}");
        }
    }

    #[test]
    fn selector_that_servers_refuse_is_refused_with_its_place() {
        let (domain, name) = (format!("{}/a", "d".repeat(254)), "n".repeat(64));
        for (selector, why) in [
            (",", "`,` is no key of a label"),
            ("a,", "ends too early: expected the key of a label"),
            ("a,,b", "`,` is no key of a label"),
            ("!", "ends too early: expected the key of a label"),
            ("!!a", "`!` is no key"),
            ("!a=b", "unexpected `=` in the label selector: expected `,` or the end"),
            ("a b", "unexpected `b` in the label selector: expected one of =, ==, !=, in, notin, < and >"),
            ("a=b c", "unexpected `c` in the label selector: expected `,` or the end"),
            ("a===b", "`=` is no value"),
            ("a=!b", "`!` is no value"),
            ("a In (b)", "unexpected `In`"),
            ("a in", "ends too early: expected `(` after `in`"),
            ("a in b", "unexpected `b` in the label selector: expected `(` after `in`"),
            ("a in (b", "ends too early: expected `,` or `)` after a value"),
            ("a in (b c)", "unexpected `c` in the label selector: expected `,` or `)`"),
            ("a in (b))", "unexpected `)`"),
            ("a in ((b))", "`(` is no value"),
            ("a)", "unexpected `)`"),
            ("a>b", "unexpected `b` in the label selector: expected a whole number"),
            ("a>", "ends too early: expected a whole number"),
            ("a<-1", "`-1` is no value"),
            ("-a", "`-a` is no key"),
            ("a_=b", "`a_` is no key"),
            ("a/b/c", "`a/b/c` is no key"),
            ("/a", "`/a` is no key"),
            ("a/", "`a/` is no key"),
            ("A.b/c", "`A.b/c` is no key"),
            ("ä=b", "`ä` is no key"),
            ("a\u{0}=b", "`a\\u{0}` is no key"),
            ("a=-b", "`-b` is no value"),
            ("a=b/c", "`b/c` is no value"),
            ("a in (b, c:d)", "`c:d` is no value"),
            (&domain, "is no key"),
            (&name, "is no key"),
            (&format!("a={name}"), "is no value"),
        ] {
            let error = check(selector).expect_err(selector);
            assert!(error.contains(why), "{selector}\nexpected: {why}\nfound: {error}");
        }
    }
}
