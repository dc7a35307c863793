//! Parts of a kubeconfig that belong to other programs: carried along, not looked into.

use std::fmt;

use zeroize::Zeroizing;

use super::document::Node;

/// What other programs keep about a cluster in a kubeconfig (`extensions`): carried along, not looked into, not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Extensions(Zeroizing<String>);

impl Extensions {
    pub(super) fn of(node: &Node) -> Self {
        let mut yaml = Zeroizing::default();
        node.write_flow(&mut yaml);
        Self(yaml)
    }

    /// As YAML on one line.
    pub(super) fn yaml(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Extensions(..)")
    }
}
