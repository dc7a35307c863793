//! The ways to go wrong.

use std::time::Duration;

use serde::Deserialize;

use super::plan::span;

/// One way to go wrong.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// Another answer; the request is not carried out.
    Answer(Canned),
    /// The answer comes this much later.
    #[serde(deserialize_with = "span")]
    Delay(Duration),
    /// The request is not carried out, and never answered.
    Silence,
    /// The request is carried out, and the connection ends within the answer.
    Cut(Cut),
    /// The same, and there the connection is reset instead of closed.
    Reset(Cut),
    /// The answer comes one byte at a time, each in a TLS record of its own, with this pause in between.
    #[serde(deserialize_with = "span")]
    Trickle(Duration),
    /// What comes is not HTTP.
    Garbage,
    /// Something in the answer is far too long.
    Oversized(Part),
    /// The answer, or the watch, says that it is of this media type.
    ContentType(String),
    /// The events of a watch are not what they should be.
    Events(Events),
    /// The objects in answers and events are not what they should be.
    Object(Object),
    /// The objects in answers and events are approved, and carry a certificate that is not what it should be.
    Certificate(Certificate),
    /// The watch cache of the server is younger than all objects: the server has restarted just before the request, and
    /// something else has been written since.
    YoungCache,
    /// There is no usable connection to begin with.
    Connection(Connection),
}

/// An answer made up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Canned {
    /// The HTTP status.
    pub status: u16,
    /// What the body is.
    #[serde(default)]
    pub body: Body,
    /// `Retry-After`, in seconds.
    #[serde(default)]
    pub retry_after: Option<u32>,
}

/// The body of an answer made up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Body {
    /// A `Status`, as the API sends it.
    #[default]
    Status,
    /// A page, as proxies send it.
    Html,
    /// Nothing.
    Empty,
}

/// Where an answer breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cut {
    /// Before its first byte.
    BeforeHead,
    /// Within the head.
    InHead,
    /// Between head and body.
    AfterHead,
    /// Within the frame of the first chunk; for an answer without chunks, after the body's first byte.
    InChunk,
    /// Within the body, or the first event of a watch.
    InBody,
    /// After the body, or the first event of a watch.
    AfterBody,
}

/// What is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// A header of 128 KiB.
    Head,
    /// A line of 2 MiB, as no event is.
    Line,
    /// A body of 5 MiB.
    Body,
}

/// What is wrong with the events of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Events {
    /// Each comes twice.
    Duplicated,
    /// Each comes after the one that follows it; the last one stays away.
    Reordered,
    /// There are only bookmarks.
    OnlyBookmarks,
    /// There is an ERROR that says the version has expired, and the end.
    Expired,
    /// They are not JSON.
    Unreadable,
    /// Everything is said to be deleted.
    Deleted,
}

/// What is wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Object {
    /// Its UID is another each time.
    UidChanged,
    /// It is another request of the same name: for another signer.
    Replaced,
    /// It is approved and has no certificate, for ever.
    NeverIssued,
    /// It is denied.
    Denied,
    /// The signer has failed it.
    Failed,
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Certificate {
    /// It is for another key.
    OtherKey,
    /// It is for another common name.
    OtherName,
    /// It is for the organization `system:masters`, too.
    ExtraOrganization,
    /// It has a URI, too.
    ExtraUri,
    /// It lacks the alternative names.
    WithoutNames,
    /// It has expired.
    Expired,
    /// It is not valid for another hour.
    NotYetValid,
    /// It is for the other end of TLS: for servers instead of clients, and the other way round.
    OtherUsage,
    /// Another authority has signed it.
    OtherAuthority,
    /// There is a PEM file without any certificate.
    EmptyChain,
    /// The authority's certificate comes first.
    WrongOrder,
    /// Text follows it.
    TrailingText,
    /// It breaks off.
    Truncated,
}

/// How a connection fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Connection {
    /// Nobody listens. Where somebody has to, to know that: it is reset at once.
    Refused,
    /// It is reset when the client has said something.
    Reset,
    /// It is closed when the client has said something.
    Closed,
    /// It is never answered.
    Silent,
    /// What answers does not speak TLS.
    Plaintext,
    /// The handshake ends with `handshake_failure`.
    HandshakeAlert,
    /// The handshake ends with `certificate_expired`.
    CertificateAlert,
    /// The server's certificate is for another name.
    OtherName,
    /// The server's certificate is signed by another authority.
    OtherAuthority,
    /// The server's certificate has expired.
    Expired,
}
