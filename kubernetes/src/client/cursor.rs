//! The resource version at which the next watch of the request object begins.

/// The resource version that watches of the request object begin after.
#[derive(Default)]
pub(crate) struct Cursor {
    version: String,
    /// The version of the object as last seen.
    object: String,
    /// True if a watch was answered with 410 and no watch has lasted a while since.
    expired: bool,
}

impl Cursor {
    /// The version to watch from; empty if none is known.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Moves the cursor to the version of the object, from an event or a read. An unchanged object leaves the cursor
    /// where it is: bookmarks and lists move it beyond the object's version, which the server's watch cache forgets.
    pub(crate) fn saw(&mut self, version: &str) {
        if self.object != version || self.version.is_empty() {
            version.clone_into(&mut self.version);
            version.clone_into(&mut self.object);
        }
    }

    /// Moves the cursor to the version of a list. `object` is the version of the request object in the list.
    pub(crate) fn listed(&mut self, list: String, object: &str) {
        (self.version, self.object) = (list, object.to_owned());
    }

    /// Moves the cursor to the version of a bookmark: all events up to that version have been delivered.
    pub(crate) fn bookmark(&mut self, version: String) {
        if !version.is_empty() {
            self.version = version;
        }
    }

    /// Notes that a watch lasted a while, so that a later 410 counts as a first one.
    pub(crate) const fn good(&mut self) {
        self.expired = false;
    }

    /// Handles 410: the server's watch cache does not reach back to the version any more. Returns false for a second
    /// 410 without a good watch in between: this server does not accept the version of a list either.
    pub(crate) fn expire(&mut self) -> bool {
        self.version.clear();
        !std::mem::replace(&mut self.expired, true)
    }
}
