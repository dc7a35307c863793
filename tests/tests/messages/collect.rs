//! Collects, from the tokens of a source file, the texts that people read.

use std::fmt;
use std::str::FromStr as _;

use proc_macro2::{Delimiter, Group, Literal, TokenStream, TokenTree};
use syn::Lit;

/// The place of a text in the source. The place decides where people read the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A macro of `tracing`, with the name of its level.
    Log(&'static str),
    /// `#[error]` of `thiserror`.
    Error,
    /// An implementation of `Display`, or `#[display]`.
    Display,
    /// The help of the command line.
    Help,
    /// `println!`, `print!`, `eprintln!` or `eprint!`.
    Print,
    /// Any other text of more than one word: mostly a part of a message that is composed elsewhere.
    Text,
}

/// A text that people read, as written in the source.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// The format string. For a log message, the names of its fields follow in brackets.
    pub(crate) text: String,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Log(level) => level,
            Kind::Error => "error",
            Kind::Display => "display",
            Kind::Help => "help",
            Kind::Print => "print",
            Kind::Text => "text",
        };
        writeln!(f, "  {kind:<8}{}", self.text.trim_end().replace('\n', "\n          "))
    }
}

/// Collects the messages in the text of a source file, except for those in unit tests.
pub(crate) fn messages(source: &str) -> Vec<Message> {
    let mut messages = Vec::new();
    walk(TokenStream::from_str(source).expect("Rust"), Kind::Text, &mut messages);
    messages
}

fn walk(tokens: TokenStream, kind: Kind, found: &mut Vec<Message>) {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    let mut rest = trees.as_slice();
    // The kind of texts in the braces that come next.
    let mut body = kind;
    while let Some((tree, after)) = rest.split_first() {
        rest = after;
        match tree {
            TokenTree::Punct(hash) if hash.as_char() == '#' => {
                let (attributes, after) = attributes(after);
                rest = after;
                if attributes.iter().any(|attribute| attribute.to_string() == "cfg (test)") {
                    rest = after_item(after);
                    continue;
                }
                if attributes.iter().any(derives_clap) {
                    body = Kind::Help;
                }
                of_attributes(&attributes, body, found);
            }
            TokenTree::Punct(dot) if dot.as_char() == '.' => {
                if let [TokenTree::Ident(name), TokenTree::Group(_), after @ ..] = after
                    && name == "expect"
                {
                    rest = after;
                }
            }
            TokenTree::Punct(end) if end.as_char() == ';' => body = kind,
            TokenTree::Ident(name) => match after {
                [TokenTree::Punct(bang), TokenTree::Group(group), after @ ..] if bang.as_char() == '!' => {
                    rest = after;
                    of_macro(&name.to_string(), group, kind, found);
                }
                [TokenTree::Ident(preposition), ..] if preposition == "for" && name == "Display" => {
                    body = Kind::Display
                }
                // Debug texts are for the authors of a program.
                [TokenTree::Ident(preposition), ..] if preposition == "for" && name == "Debug" => {
                    rest = after_item(after)
                }
                _ => {}
            },
            TokenTree::Group(group) => {
                let kind =
                    if group.delimiter() == Delimiter::Brace { std::mem::replace(&mut body, kind) } else { body };
                walk(group.stream(), kind, found);
            }
            TokenTree::Literal(literal) => found.extend(text(literal).and_then(|text| prose(kind, text))),
            TokenTree::Punct(_) => {}
        }
    }
}

/// Reads the attributes at the beginning of `rest`, which are without the `#` of the first attribute. Returns the
/// contents of each attribute, and the tokens that follow the attributes.
fn attributes(mut rest: &[TokenTree]) -> (Vec<TokenStream>, &[TokenTree]) {
    let mut attributes = Vec::new();
    loop {
        if let [TokenTree::Punct(inner), after @ ..] = rest
            && inner.as_char() == '!'
        {
            rest = after;
        }
        let [TokenTree::Group(group), after @ ..] = rest else { return (attributes, rest) };
        attributes.push(group.stream());
        rest = after;
        match rest {
            [TokenTree::Punct(hash), after @ ..] if hash.as_char() == '#' => rest = after,
            _ => return (attributes, rest),
        }
    }
}

/// Returns the tokens after the item that `rest` begins with. An item ends with braces or a semicolon.
fn after_item(rest: &[TokenTree]) -> &[TokenTree] {
    let end = rest.iter().position(|tree| match tree {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        _ => false,
    });
    end.map_or(&[], |end| &rest[end + 1..])
}

fn derives_clap(attribute: &TokenStream) -> bool {
    let text = attribute.to_string();
    text.starts_with("derive ") && ["Parser", "Args", "Subcommand", "ValueEnum"].iter().any(|name| text.contains(name))
}

/// Adds the texts in an item's attributes to `found`. Adds doc comments only if `body` is [`Kind::Help`], since they
/// are then the help of an item that derives a trait of `clap`.
fn of_attributes(attributes: &[TokenStream], body: Kind, found: &mut Vec<Message>) {
    let mut help = String::new();
    for attribute in attributes {
        let mut tokens = attribute.clone().into_iter();
        let Some(TokenTree::Ident(name)) = tokens.next() else { continue };
        match name.to_string().as_str() {
            "error" => walk(tokens.collect(), Kind::Error, found),
            "display" => walk(tokens.collect(), Kind::Display, found),
            "arg" | "command" | "value" => walk(tokens.collect(), Kind::Help, found),
            "doc" if body == Kind::Help => {
                let Some(TokenTree::Literal(literal)) = tokens.nth(1) else { continue };
                let line = text(&literal).unwrap_or_default();
                // An empty line is between paragraphs.
                help += if line.is_empty() { "\n" } else { &line };
            }
            _ => {}
        }
    }
    let help = help.replace("\n ", "\n").trim().to_owned();
    // Docs of a group of flags are for authors, and have a period; those of a command are its help, and have none.
    let is_of_group = attributes.iter().any(derives_clap) && help.ends_with('.') && !help.contains('\n');
    found.extend((!help.is_empty() && !is_of_group).then_some(Message { kind: Kind::Help, text: help }));
}

fn of_macro(name: &str, group: &Group, kind: Kind, found: &mut Vec<Message>) {
    match name {
        "error" => of_log("ERROR", group, found),
        "warn" => of_log("WARN", group, found),
        "info" => of_log("INFO", group, found),
        "debug" => of_log("DEBUG", group, found),
        "trace" => of_log("TRACE", group, found),
        "print" | "println" | "eprint" | "eprintln" => walk(group.stream(), Kind::Print, found),
        // A failed assertion is a bug: its text is for the authors.
        name if name.contains("assert") => {}
        "panic" | "unreachable" | "matches" | "env" | "include_str" | "include_bytes" | "cfg" => {}
        _ => walk(group.stream(), kind, found),
    }
}

fn of_log(level: &'static str, group: &Group, found: &mut Vec<Message>) {
    let trees: Vec<TokenTree> = group.stream().into_iter().collect();
    let is_comma = |tree: &TokenTree| matches!(tree, TokenTree::Punct(comma) if comma.as_char() == ',');
    let mut fields = Vec::new();
    let mut message = None;
    for argument in trees.split(is_comma) {
        match argument {
            [TokenTree::Literal(literal)] if message.is_none() => message = text(literal),
            [] => {}
            // Fields come before the message, and its arguments after.
            field if message.is_none() => {
                let sigil = |tree: &&TokenTree| matches!(tree, TokenTree::Punct(sigil) if sigil.as_char() == '?');
                let debug = if field.iter().any(|tree| sigil(&tree)) { ":?" } else { "" };
                let name = field.iter().find(|tree| matches!(tree, TokenTree::Ident(_)));
                fields.extend(name.map(|name| format!("{{{name}{debug}}}")));
            }
            argument => walk(argument.iter().cloned().collect(), Kind::Text, found),
        }
    }
    let fields = if fields.is_empty() { String::new() } else { format!("  [{}]", fields.join(" ")) };
    found.push(Message { kind: Kind::Log(level), text: message.unwrap_or_default() + &fields });
}

/// The value of a string literal; `None` for other literals.
fn text(literal: &Literal) -> Option<String> {
    if let Lit::Str(text) = Lit::new(literal.clone()) { Some(text.value()) } else { None }
}

/// Returns a message if the text has at least two words, or formats a value with `Debug`. Returns `None` for any other
/// text, and for a text of HTTP or PEM, which programs read.
fn prose(kind: Kind, text: String) -> Option<Message> {
    let is_word = |word: &str| word.chars().filter(|c| c.is_alphabetic()).count() >= 2;
    let is_wire = text.contains("\r\n") || text.contains("-----");
    let is_prose = text.split_whitespace().count() >= 2 && text.split_whitespace().any(is_word);
    (!is_wire && (is_prose || text.contains(":?}"))).then_some(Message { kind, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_for_people_are_collected_as_messages() {
        let table: [(&str, &[&str]); 13] = [
            (
                r#"warn!(serial, until = %end, why = ?error, "{of}late: {}", if a { "by a day" } else { "x" });"#,
                &["text    by a day", "WARN    {of}late: {}  [{serial} {until} {why:?}]"],
            ),
            (r#"fn f() { tracing::info!("{self}") }"#, &["INFO    {self}"]),
            (r#"enum E { #[error("no {0} there")] No(u8) }"#, &["error   no {0} there"]),
            (
                r#"impl fmt::Display for A { fn fmt() { write!(f, "no {}", self.0) } } const B: &str = "in two";"#,
                &["display no {}", "text    in two"],
            ),
            (r#"impl fmt::Debug for A { fn fmt() { write!(f, "no {}", self.0) } }"#, &[]),
            (
                "/// A group.\n#[derive(Debug, Args)] struct A {\n/// One line\n/// of help\n///\n/// More\na: u8 }",
                &["help    One line of help\n          More"],
            ),
            ("/// Run it\n#[derive(Debug, Args)] struct A {}", &["help    Run it"]),
            ("/// A thing.\n#[derive(Debug)] struct A {\n/// One line\na: u8 }", &[]),
            (r#"#[derive(Args)] struct A { #[arg(long, help = "take it")] a: u8 }"#, &["help    take it"]),
            (
                r#"#[cfg(test)] mod tests { fn f() { warn!("late") } } fn f() { println!("on time") }"#,
                &["print   on time"],
            ),
            (r#"fn f() { a.expect("never so"); panic!("a bug"); assert!(b, "a {b}"); g("a\r\nb c") }"#, &[]),
            (r#"fn f() { format!("{a:?}"); g("name") }"#, &["text    {a:?}"]),
            ("const A: &str = \"one \\\n  line\";", &["text    one line"]),
        ];
        for (source, expected) in table {
            let found: Vec<String> = messages(source).iter().map(|message| message.to_string().trim().into()).collect();
            assert_eq!(found, expected, "{source}");
        }
    }
}
