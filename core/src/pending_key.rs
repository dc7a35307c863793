//! Whether the next request may use the pending key, the key of the last request, again.

use core::mem;

use crate::action::Key;
use crate::sync::Arc;
use crate::template::Template;

/// The use of the pending key: the template of the last request, and whether a retry may use the key again. The name of
/// a request object is derived from the key, so that a retry with the same key finds the same object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum PendingKey {
    /// No request was submitted yet.
    #[default]
    None,
    /// The last request has no final answer: a retry for this template uses the same key.
    Usable(Arc<Template>),
    /// The next request needs a new key. The last request, for this template, was answered, or the policy requires a
    /// new key for each attempt.
    Spent(Arc<Template>),
}

impl PendingKey {
    /// The state after a request for `template`. If `is_kept`, a retry may use the key again.
    pub(crate) const fn used_for(template: Arc<Template>, is_kept: bool) -> Self {
        if is_kept { Self::Usable(template) } else { Self::Spent(template) }
    }

    /// The template of the last request; `None` if no request was submitted yet.
    pub const fn template(&self) -> Option<&Arc<Template>> {
        match self {
            Self::None => None,
            Self::Usable(template) | Self::Spent(template) => Some(template),
        }
    }

    /// The key for a retry of the last request.
    pub(crate) const fn key(&self) -> Key {
        if matches!(self, Self::Usable(_)) { Key::Pending } else { Key::New }
    }

    /// The key for a request for the template `wanted`. A new key if the last request was for another template, so that
    /// the new request has an object of its own.
    pub(crate) fn key_for(&self, wanted: &Arc<Template>) -> Key {
        if self.template() == Some(wanted) { self.key() } else { Key::New }
    }

    /// Requires a new key for the next request.
    pub(crate) fn spend(&mut self) {
        *self = match mem::take(self) {
            Self::Usable(template) => Self::Spent(template),
            spent => spent,
        };
    }
}
