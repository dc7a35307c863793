//! [`Desired`]: a kind of request object, and the HTTP requests that create, read, list and watch it.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use perennial::{UnixTime, printable};

use super::http::Request;
use super::verdict::Judged;

/// A resource of the API group `certificates.k8s.io`, as messages name it.
#[derive(Debug)]
pub(crate) struct Resource {
    /// The kind of one object: `CSR`.
    pub(crate) kind: &'static str,
    /// The version of the group: `v1`.
    pub(crate) version: &'static str,
    /// The name of the resource, in paths and roles: `certificatesigningrequests`.
    pub(crate) name: &'static str,
    /// The first release of Kubernetes that serves the resource as this client needs it: `1.19`.
    pub(crate) since: &'static str,
    /// The settings with which an API server serves the resource, as a clause that begins with a comma; empty if it does
    /// by default.
    pub(crate) settings: &'static str,
    /// A field that servers before `since` require, by which their refusal of an object is recognized. `None` if the
    /// resource has no such field.
    pub(crate) former_field: Option<&'static str>,
    /// Advice if the authorizer refuses the user, as a clause.
    pub(crate) grant: &'static str,
    /// Advice if admission refuses the object, as a clause.
    pub(crate) admission: &'static str,
}

/// The request object of one submission. Each kind of object has a type that implements this trait.
pub(crate) trait Desired: fmt::Debug + Send {
    /// The resource of the object.
    fn resource(&self) -> &'static Resource;

    /// The name of the object.
    fn name(&self) -> &str;

    /// The object as messages name it, such as `CSR node-csr-1`.
    fn title(&self) -> String {
        format!("{} {}", self.resource().kind, printable(self.name()))
    }

    /// The API path of all objects of this kind, in the namespace of the object if the kind has namespaces.
    fn path(&self) -> String;

    /// The field selector of lists and watches of this object alone.
    fn selector(&self) -> String {
        format!("metadata.name={}", self.name())
    }

    /// True if the object is to be read in a list, not by its name. The object is read by its name nevertheless once the
    /// server has refused a list.
    fn is_read_in_lists(&self) -> bool {
        false
    }

    /// The object to create, as JSON.
    fn object(&self) -> Vec<u8>;

    /// Judges the state of the object, given as JSON. `found` is true if the object existed before this submission: its
    /// certificate may have expired in the meantime.
    ///
    /// # Errors
    /// This is not JSON, or not an object of this kind.
    fn judge(&self, object: &[u8], found: bool, now: UnixTime) -> serde_json::Result<Judged>;
}

impl dyn Desired {
    /// The HTTP request that creates the object. The server answers 409 if an object of this name exists.
    pub(crate) fn create(&self) -> Request {
        Request::post(self.path(), self.object())
    }

    /// The HTTP request that reads the object by its name.
    pub(crate) fn read(&self) -> Request {
        Request::get(format!("{}/{}", self.path(), encoded(self.name())))
    }

    /// The HTTP request that lists only this object. The answer has the server's current resource version, from which a
    /// watch can begin.
    pub(crate) fn list(&self) -> Request {
        Request::get(format!("{}?fieldSelector={}", self.path(), encoded(&self.selector())))
    }

    /// The HTTP request that watches the object for changes after `resource_version`. The server ends the watch after
    /// `seconds`.
    pub(crate) fn watch(&self, resource_version: &str, seconds: u64) -> Request {
        Request::get(format!(
            "{}?watch=true&fieldSelector={}&resourceVersion={}&allowWatchBookmarks=true&timeoutSeconds={seconds}",
            self.path(),
            encoded(&self.selector()),
            encoded(resource_version),
        ))
    }
}

/// Percent-encodes a value for a query or a path segment. Only unreserved characters stay as they are (RFC 3986 §2.3).
pub(crate) fn encoded(text: &str) -> PercentEncode<'_> {
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, ESCAPED)
}
