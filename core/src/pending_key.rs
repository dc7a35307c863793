//! The key in the pending slot, and what it may still be used for.

use alloc::sync::Arc;

use crate::action::Key;
use crate::template::Template;

/// The key in the pending slot: what it was last used to request, and whether it may be used once more. The name of a
/// request object is derived from the key, so that a retry with the same key finds the same object again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum PendingKey {
    /// No request was made yet.
    #[default]
    None,
    /// The last request has no final answer: a retry for this template uses the same key.
    Usable(Arc<Template>),
    /// The last request, for this template, has had its answer; or the policy wants a new key for each attempt.
    Spent(Arc<Template>),
}

impl PendingKey {
    /// A key that was used to request this, and may be used once more if it `is_kept`.
    pub(crate) const fn used_for(template: Arc<Template>, is_kept: bool) -> Self {
        if is_kept { Self::Usable(template) } else { Self::Spent(template) }
    }

    /// The identity that was requested last.
    pub const fn template(&self) -> Option<&Arc<Template>> {
        match self {
            Self::None => None,
            Self::Usable(template) | Self::Spent(template) => Some(template),
        }
    }

    /// The key to repeat the last request with.
    pub(crate) const fn key(&self) -> Key {
        if matches!(self, Self::Usable(_)) { Key::Pending } else { Key::New }
    }

    /// The key to request this with.
    pub(crate) fn key_for(&self, wanted: &Arc<Template>) -> Key {
        if self.template() == Some(wanted) { self.key() } else { Key::New }
    }

    pub(crate) fn spend(&mut self) {
        if let Self::Usable(template) = self {
            *self = Self::Spent(template.clone());
        }
    }
}
