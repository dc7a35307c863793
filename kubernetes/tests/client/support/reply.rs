//! The HTTP requests to the scripted server, and its replies.

use std::time::Duration;

use serde::Serialize;

/// An HTTP request that the scripted server has received.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedRequest {
    /// The method and the target.
    pub(crate) line: String,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The number of the connection, counted from 1.
    pub(crate) connection: usize,
    /// The number of the request on its connection, counted from 1.
    pub(crate) nth: usize,
}

impl ReceivedRequest {
    pub(crate) fn is_post(&self) -> bool {
        self.line.starts_with("POST")
    }

    pub(crate) fn is_watch(&self) -> bool {
        self.line.contains("watch=true")
    }

    pub(crate) fn is_list(&self) -> bool {
        self.line.contains('?') && !self.is_watch()
    }
}

/// A reply of the server. Each piece of plaintext is sent after a pause; `end` is what the server does with the
/// connection after the last piece.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) pieces: Vec<(Duration, Vec<u8>)>,
    pub(crate) end: End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    #[default]
    Keep,
    /// The server sends close_notify and closes the connection.
    Close,
    /// The server closes the connection without a close_notify.
    Cut,
    /// The connection is reset: the client's next read fails.
    Reset,
}

impl Reply {
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { pieces: vec![(Duration::ZERO, bytes.into())], end: End::Keep }
    }

    pub(crate) fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        Self::raw([head.into_bytes(), body].concat())
    }

    pub(crate) fn object(status: u16, object: &impl Serialize) -> Self {
        Self::json(status, serde_json::to_vec(object).unwrap())
    }

    pub(crate) fn list(version: &str, objects: &[impl Serialize]) -> Self {
        Self::json(200, list_of(version, objects).to_string())
    }

    pub(crate) fn status(code: u16, reason: &str, message: &str) -> Self {
        let body = format!(
            r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"{message}","reason":"{reason}","code":{code}}}"#
        );
        Self::json(code, body)
    }

    /// The head of a chunked stream, which stays open. The methods below add events and the end.
    pub(crate) fn stream() -> Self {
        Self::raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    }

    pub(crate) fn event(mut self, type_: &str, object: impl Serialize) -> Self {
        let event = serde_json::json!({ "type": type_, "object": object });
        self.pieces.push((Duration::from_millis(100), chunk(format!("{event}\n").as_bytes())));
        self
    }

    pub(crate) fn after(mut self, pause: Duration) -> Self {
        self.pieces.last_mut().unwrap().0 = pause;
        self
    }

    /// Ends a chunked stream after `pause`.
    pub(crate) fn finish(mut self, pause: Duration) -> Self {
        self.pieces.push((pause, b"0\r\n\r\n".to_vec()));
        self
    }

    pub(crate) fn then(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    pub(crate) fn silence() -> Self {
        Self::default()
    }

    /// All bytes of the reply at once, so that there is something to split. `byte` replaces the byte at index `at`, modulo
    /// the reply's length.
    pub(crate) fn damaged(&self, at: usize, byte: u8) -> Self {
        let mut bytes: Vec<u8> = self.pieces.iter().flat_map(|(_, bytes)| bytes).copied().collect();
        let length = bytes.len();
        bytes[at % length] = byte;
        Self { pieces: vec![(Duration::ZERO, bytes)], end: self.end }
    }

    /// The first `length` bytes of the reply, then the end of the connection without a close_notify.
    pub(crate) fn cut_at(&self, length: usize) -> Self {
        let mut left = length;
        let mut pieces = self.pieces.clone();
        for (_, bytes) in &mut pieces {
            bytes.truncate(left);
            left -= bytes.len();
        }
        Self { pieces, end: End::Cut }
    }

    pub(crate) fn len(&self) -> usize {
        self.pieces.iter().map(|(_, bytes)| bytes.len()).sum()
    }
}

pub(crate) fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// A list of `objects` at the server's resource version `version`.
pub(crate) fn list_of(version: &str, objects: &[impl Serialize]) -> serde_json::Value {
    serde_json::json!({
        "kind": "List",
        "apiVersion": "v1",
        "metadata": { "resourceVersion": version },
        "items": objects,
    })
}
