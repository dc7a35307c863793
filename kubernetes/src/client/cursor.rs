//! The resource version at which the next watch of the request object begins.

/// The version that watches begin after.
#[derive(Default)]
pub(crate) struct Cursor {
    version: String,
    /// Version of the object as last seen.
    object: String,
    /// A watch was answered with 410, and none has been in order since.
    expired: bool,
}

impl Cursor {
    /// The version to watch from.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Takes the version of the object, from an event or a read. An unchanged object leaves the cursor where it is:
    /// bookmarks and lists move the cursor beyond the object's version, which the server's watch cache forgets.
    pub(crate) fn saw(&mut self, version: &str) {
        if self.object != version || self.version.is_empty() {
            version.clone_into(&mut self.version);
            version.clone_into(&mut self.object);
        }
    }

    /// Takes the version of a list, and that of the object in the list.
    pub(crate) fn listed(&mut self, list: String, object: &str) {
        (self.version, self.object) = (list, object.to_owned());
    }

    /// Takes the version of a bookmark: all events up to that version have been delivered.
    pub(crate) fn bookmark(&mut self, version: String) {
        if !version.is_empty() {
            self.version = version;
        }
    }

    /// A watch was in order.
    pub(crate) const fn good(&mut self) {
        self.expired = false;
    }

    /// The server's watch cache does not reach back to the version any more (410). False for the second time without a
    /// watch in order in between: even the version of a list does not help with this server.
    pub(crate) fn expire(&mut self) -> bool {
        self.version.clear();
        !std::mem::replace(&mut self.expired, true)
    }
}
