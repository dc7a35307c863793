//! Parts of a kubeconfig that belong to other programs: carried along, not looked into.

use std::fmt;

use zeroize::Zeroizing;

use super::document::Node;

/// What other programs keep about a cluster in a kubeconfig (`extensions`): carried along, not looked into, not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Extensions(Zeroizing<String>);

impl Extensions {
    pub(super) fn of(node: &Node) -> Self {
        let mut json = Zeroizing::default();
        node.write_json(&mut json);
        Self(json)
    }

    /// As JSON on one line, which is YAML as well.
    pub(super) fn json(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Extensions(..)")
    }
}
