//! Requests and answers of the API: HTTP messages without a connection.

use std::borrow::Cow;
use std::sync::Arc;

use derive_more::Debug;
use http::Method;
use serde::Serialize;
use zeroize::Zeroizing;

use super::list::Listing;
use super::user::User;
use super::watch::Watcher;

/// One HTTP request to the API, with the headers that the API reads.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    /// The method. A `HEAD` request has `GET` here; the session omits the body of the answer.
    pub method: Method,
    /// Path and query as sent, for example `/apis/certificates.k8s.io/v1/certificatesigningrequests?watch=true`.
    pub target: String,
    /// The `Accept` header; empty if absent.
    pub accept: String,
    /// The `Content-Type` header; empty if absent.
    pub content_type: String,
    /// The `Authorization` header, such as `Bearer abcdef.0123456789abcdef`; `None` if absent.
    #[debug("{}", authorization.is_some())]
    pub authorization: Option<Zeroizing<String>>,
    /// True if the request has an impersonation header such as `Impersonate-User`: the request is refused.
    pub impersonates: bool,
    /// The body.
    #[debug("{} bytes", body.len())]
    pub body: Vec<u8>,
    /// The user of the client certificate, which TLS has verified; `None` for a client without certificate.
    pub peer: Option<Arc<User>>,
}

impl ApiRequest {
    /// A request without credentials and body. The answer is JSON, since the `Accept` header is empty.
    pub fn new(method: Method, target: impl Into<String>) -> Self {
        Self {
            method,
            target: target.into(),
            accept: String::new(),
            content_type: String::new(),
            authorization: None,
            impersonates: false,
            body: Vec::new(),
            peer: None,
        }
    }

    /// The path, still percent-encoded.
    pub(super) fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }

    pub(super) fn query(&self) -> Query {
        Query::parse(self.target.split_once('?').map_or("", |(_, query)| query))
    }
}

/// The API's answer to a request.
#[derive(Debug)]
pub enum Answer {
    /// A complete response.
    Response(Response),
    /// A list, whose text is produced piece by piece.
    List(Listing),
    /// A stream of events: call [`Api::next_event`](super::Api::next_event) for each, until
    /// [`Next::End`](crate::Next::End).
    Watch(Watcher),
}

/// A complete HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type` header.
    pub content_type: Cow<'static, str>,
    /// The `Retry-After` header, in seconds; `None` omits the header.
    pub retry_after: Option<u32>,
    /// Warnings for the client, each in a `Warning` header with code 299.
    pub warnings: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    pub(super) fn json(status: u16, object: &impl Serialize) -> Self {
        Self::written(status, to_json(object))
    }

    /// A response whose `body` is JSON text already.
    pub(super) fn written(status: u16, body: Vec<u8>) -> Self {
        Self::new(status, "application/json", body)
    }

    pub(super) fn text(status: u16, body: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body.into())
    }

    pub(super) fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { status, content_type: content_type.into(), retry_after: None, warnings: Vec::new(), body }
    }
}

/// An object as JSON text.
pub(super) fn to_json(object: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(object).expect("our objects have string keys and infallible fields")
}

/// Query parameters of a request, percent-decoded.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// The first value of the parameter `key`; `None` if absent.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(have, _)| have == key).map(|(_, value)| value.as_str())
    }

    /// True if the parameter `key` is present and its value is neither `false` nor `0`, as Go's query conversion reads
    /// booleans.
    pub(super) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !matches!(value, "false" | "0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_is_split_before_percent_decoding() {
        let request = ApiRequest::new(Method::GET, "/x?fieldSelector=metadata.name%3Da%26b&watch=1&empty&sp=a+b%zz");
        let query = request.query();
        assert_eq!(request.path(), "/x");
        assert_eq!(query.get("fieldSelector"), Some("metadata.name=a&b"));
        assert_eq!(query.get("sp"), Some("a b%zz"));
        assert!(query.flag("watch") && query.flag("empty") && !query.flag("absent"));
    }

    #[test]
    fn debug_of_request_hides_credentials() {
        let mut request = ApiRequest::new(Method::GET, "/");
        request.authorization = Some(Zeroizing::new("Bearer secret".into()));
        assert!(!format!("{request:?}").contains("secret"));
    }
}
