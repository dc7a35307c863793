//! The resource version from which the next watch of the request object continues.

/// The resource version from which watches of the request object continue: they report changes after that version.
#[derive(Default)]
pub(crate) struct Cursor {
    version: String,
    /// The version of the object as last seen.
    object: String,
    /// True if the server has answered 410, and no later watch has lasted for a minute (see [`good`](Self::good)).
    expired: bool,
}

impl Cursor {
    /// The version to watch from; empty if none is known.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Moves the cursor to `version`, the version of the object in an event or a read, if the object has changed. If
    /// the object is unchanged, a bookmark or a list may have moved the cursor past the object's version. The cursor
    /// then stays there, since the server's watch cache remembers a later version for longer.
    pub(crate) fn saw(&mut self, version: &str) {
        if self.object != version || self.version.is_empty() {
            version.clone_into(&mut self.version);
            version.clone_into(&mut self.object);
        }
    }

    /// Moves the cursor to the resource version of a list. `object` is the version of the request object in the list.
    pub(crate) fn listed(&mut self, list: String, object: &str) {
        (self.version, self.object) = (list, object.to_owned());
    }

    /// Moves the cursor to the version of a bookmark: all events up to that version have been delivered.
    pub(crate) fn bookmark(&mut self, version: String) {
        if !version.is_empty() {
            self.version = version;
        }
    }

    /// Notes that a watch has lasted at least a minute. The next 410 then counts as a first 410 again.
    pub(crate) const fn good(&mut self) {
        self.expired = false;
    }

    /// Handles a 410: the server's watch cache no longer reaches back to the cursor's version. Returns true if the next
    /// watch may begin at the version of a list. Returns false for a second 410 without a call of [`good`](Self::good)
    /// in between, since the server then refuses the version of a list, too.
    pub(crate) fn expire(&mut self) -> bool {
        self.version.clear();
        !std::mem::replace(&mut self.expired, true)
    }
}
