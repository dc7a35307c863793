//! Parts of a kubeconfig that belong to other programs, copied without being interpreted.

use zeroize::Zeroizing;

use super::document::Node;

/// The `extensions` of a cluster in a kubeconfig: data of other programs, copied without being interpreted or shown.
#[derive(Clone, derive_more::Debug, PartialEq, Eq)]
#[debug("Extensions(..)")]
pub struct Extensions(Zeroizing<String>);

impl Extensions {
    pub(super) fn of(node: &Node) -> Self {
        let mut yaml = Zeroizing::default();
        node.write_flow(&mut yaml);
        Self(yaml)
    }

    /// The value of `extensions` as YAML on one line.
    pub(super) fn yaml(&self) -> &str {
        &self.0
    }
}
