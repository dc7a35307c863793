//! A YAML document in which every key and value keeps its line and column.
//!
//! Every scalar is text as it is written (YAML's failsafe schema): each field decides what its text means. Anchors,
//! aliases and tags are refused: `defaults` serves their purpose.

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput};

/// The deepest nesting of lists and mappings; the format needs five.
const DEEPEST: usize = 16;

/// A line and a column, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl From<Marker> for Place {
    fn from(at: Marker) -> Self {
        Self { line: at.line().max(1), column: at.col() + 1 }
    }
}

/// A value and the place where it begins.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Place,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// No value: an empty scalar, `~` or `null`. Counts as absent, as in Kubernetes.
    Empty,
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Place,
    pub(super) node: Node,
}

impl Value {
    /// The kind of value, for messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "nothing",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// A syntax error and its place.
pub(super) type Fault = (Place, String);

/// Parses a text with one document.
///
/// # Errors
/// The first syntax error, or the place of a second document.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = granit_parser::options! { emit_comments: false };
    let mut events = Parser::new_from_str_with_options(text, options);
    let mut document = None;
    while let Some((event, span)) = next(&mut events)? {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => {}
            event if document.is_none() => document = Some(compose(event, &span, &mut events, 0)?),
            _ => return Err(fault(&span, "a second document begins here; write one document per file")),
        }
    }
    Ok(document.unwrap_or(Node { value: Value::Empty, at: Place { line: 1, column: 1 } }))
}

type Events<'a> = Parser<'a, StrInput<'a>>;

fn next<'a>(events: &mut Events<'a>) -> Result<Option<(Event<'a>, Span)>, Fault> {
    let event = events.next_event().transpose();
    event.map_err(|error| ((*error.marker()).into(), format!("not valid YAML: {}", error.info())))
}

fn fault(span: &Span, why: &str) -> Fault {
    (span.start.into(), why.to_owned())
}

/// Composes the node that begins with `event`, inside of `depth` lists and mappings.
fn compose<'a>(event: Event<'a>, span: &Span, events: &mut Events<'a>, depth: usize) -> Result<Node, Fault> {
    if depth > DEEPEST {
        return Err(fault(
            span,
            "nested more deeply than a certificate list ever is; check the brackets and the indentation",
        ));
    }
    if matches!(event, Event::Alias(_)) || event.anchor_id().is_some() {
        return Err(fault(span, "anchors (&) and aliases (*) are not supported; put shared values under `defaults`"));
    }
    if event.tag().is_some() {
        return Err(fault(span, "tags (!) are not supported; remove the tag"));
    }
    let early = || fault(span, "not valid YAML: the text ends too early");
    let value = match event {
        Event::Scalar(text, ScalarStyle::Plain, ..) if ["", "~", "null"].contains(&&*text) => Value::Empty,
        Event::Scalar(text, ..) => Value::Text(text.into_owned()),
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match next(events)?.ok_or_else(early)? {
                    (Event::SequenceEnd, _) => break Value::List(items),
                    (event, span) => items.push(compose(event, &span, events, depth + 1)?),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut entries = Vec::new();
            loop {
                let (event, span) = match next(events)?.ok_or_else(early)? {
                    (Event::MappingEnd, _) => break Value::Map(entries),
                    key => key,
                };
                let key = compose(event, &span, events, depth + 1)?;
                let (event, span) = next(events)?.ok_or_else(early)?;
                let node = compose(event, &span, events, depth + 1)?;
                let Value::Text(text) = key.value else {
                    return Err((key.at, "a key cannot be a list, a mapping or empty; write `key: value`".into()));
                };
                entries.push(Entry { key: text, at: key.at, node });
            }
        }
        _ => return Err(fault(span, "not valid YAML: unexpected end")),
    };
    Ok(Node { value, at: span.start.into() })
}
