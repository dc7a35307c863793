//! The faults of a plan. In YAML, a fault has the name of its variant in camelCase.

use std::time::Duration;

use serde::Deserialize;

use super::plan::span;

/// A fault that a rule of a plan applies to requests, answers or connections.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// Answers with a canned response instead of carrying out the request.
    Answer(CannedAnswer),
    /// Delays the answer by this time.
    #[serde(deserialize_with = "span")]
    Delay(Duration),
    /// Neither carries out nor answers the request.
    Silence,
    /// Carries out the request, and closes the connection at this point of the answer.
    Cut(CutPoint),
    /// Carries out the request, and resets the connection at this point of the answer.
    Reset(CutPoint),
    /// Sends the answer one byte at a time, each in a TLS record of its own, with this pause in between.
    #[serde(deserialize_with = "span")]
    Trickle(Duration),
    /// Answers with bytes that are not HTTP.
    Garbage,
    /// Answers with a head, line or body that is far too long.
    Oversized(Oversized),
    /// Sends this `Content-Type` with the answer, whatever the body is.
    ContentType(String),
    /// Applies an [`EventFault`] to the events of a watch.
    Events(EventFault),
    /// Applies an [`ObjectFault`] to the request objects in answers and events. The stored objects do not change.
    Object(ObjectFault),
    /// Shows each request in answers and events as approved, with a certificate that has a [`CertificateFault`]. The
    /// stored requests do not change.
    Certificate(CertificateFault),
    /// Raises the resource version and empties the watch cache before the request, as if the server had written another
    /// resource and restarted. The cache then begins after the versions of all stored objects, so that a watch from one
    /// of these versions gets 410.
    YoungCache,
    /// Applies a [`ConnectionFault`] before the first request of a connection.
    Connection(ConnectionFault),
}

/// An answer that the server sends instead of carrying out the request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CannedAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    #[serde(default)]
    pub body: CannedBody,
    /// The `Retry-After` header, in seconds; `None` omits the header.
    #[serde(default)]
    pub retry_after: Option<u32>,
}

/// The body of a [`CannedAnswer`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CannedBody {
    /// A `Status` object, as the API sends.
    #[default]
    Status,
    /// An HTML page, as proxies send.
    Html,
    /// No body.
    Empty,
}

/// The point within an answer where the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CutPoint {
    /// Before the first byte of the answer.
    BeforeHead,
    /// Within the head.
    InHead,
    /// Between head and body.
    AfterHead,
    /// Within the size line of the first chunk; for an answer without chunks, after the first byte of the body.
    InChunk,
    /// Within the body; for a watch, within the first event.
    InBody,
    /// After the body; for a watch, after the first event.
    AfterBody,
}

/// The part of an answer that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Oversized {
    /// A header of 128 KiB.
    Head,
    /// An event line of 2 MiB.
    Line,
    /// A body of 5 MiB.
    Body,
}

/// A fault in the events of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EventFault {
    /// Sends each event twice.
    Duplicated,
    /// Swaps each pair of events: withholds the first until the second has been sent.
    Reordered,
    /// Turns each event into a bookmark.
    OnlyBookmarks,
    /// Sends an ERROR event with 410 Gone, and ends the watch.
    Expired,
    /// Sends lines that are not JSON.
    Unreadable,
    /// Turns each event into a DELETED event.
    Deleted,
}

/// A fault in the request objects that answers and events show. The stored objects do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ObjectFault {
    /// Gives the object a new UID in each answer and event.
    UidChanged,
    /// Changes the signer name, as if the object had been replaced by another object of the same name.
    Replaced,
    /// Shows the request as approved, without a certificate.
    NeverIssued,
    /// Shows the request as denied.
    Denied,
    /// Shows the request as approved, and as failed by its signer.
    Failed,
}

/// A fault in the certificates that answers and events show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CertificateFault {
    /// The certificate is for another key than that of the request.
    OtherKey,
    /// The certificate has another common name than requested.
    OtherName,
    /// The certificate has the organization `system:masters` in addition to the requested ones.
    ExtraOrganization,
    /// The certificate has a URI name that was not requested.
    ExtraUri,
    /// The certificate lacks the requested DNS names and IP addresses.
    WithoutNames,
    /// The certificate has expired.
    Expired,
    /// The certificate becomes valid in two hours.
    NotYetValid,
    /// The certificate has the wrong extended key usage: server authentication instead of client authentication, or the
    /// reverse.
    OtherUsage,
    /// Another CA has signed the certificate.
    OtherAuthority,
    /// In place of a chain, there is text without any PEM block.
    EmptyChain,
    /// The chain begins with the CA's certificate; the issued certificate follows.
    WrongOrder,
    /// Text that is not PEM follows the chain.
    TrailingText,
    /// The PEM text of the chain ends in the middle.
    Truncated,
}

/// A fault of the TCP connection or of the TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ConnectionFault {
    /// Refuses the connection in tests without sockets. With sockets, acts as [`ConnectionFault::Reset`]: the server
    /// must accept a connection before it can apply a plan.
    Refused,
    /// Resets the connection once the first bytes of the client have arrived.
    Reset,
    /// Closes the connection once the first bytes of the client have arrived.
    Closed,
    /// Keeps the connection open and sends nothing.
    Silent,
    /// Answers in plaintext HTTP instead of TLS.
    Plaintext,
    /// Ends the handshake with the TLS alert `handshake_failure`.
    HandshakeAlert,
    /// Ends the handshake with the TLS alert `certificate_expired`.
    CertificateAlert,
    /// Presents a server certificate for another name.
    OtherName,
    /// Presents a server certificate of another CA.
    OtherAuthority,
    /// Presents an expired server certificate.
    Expired,
}
