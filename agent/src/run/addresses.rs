//! Which addresses the serving certificate is for, and when they change.

use std::net::IpAddr;
use std::path::PathBuf;

use perennial::Template;
use perennial_kubernetes::addresses;

use super::node_object::NodeObject;
use crate::cli::Which;
use crate::failure::Failure;
use crate::files;

/// Where the addresses come from.
#[derive(Clone)]
pub(super) enum Addresses {
    Given(Vec<IpAddr>),
    File(PathBuf),
    /// The Node object.
    Cluster,
}

impl Addresses {
    /// As the flags say.
    pub(super) fn of(which: &Which) -> Result<Self, Failure> {
        match (&which.node_addresses, which.node_ip.as_slice()) {
            (Some(file), _) => {
                let addresses = Self::File(file.clone());
                addresses.template("node", None).map_err(Failure::Usage)?;
                Ok(addresses)
            }
            (None, []) => Ok(Self::Cluster),
            (None, given) => Ok(Self::Given(given.to_vec())),
        }
    }

    /// What to ask for now; `None` without an address to ask for. The node's name is among the names, unless the Node
    /// object says what is: approvers compare with that. `object` is what it said, if it was looked at.
    pub(super) fn template(&self, node: &str, object: Option<&NodeObject>) -> Result<Option<Template>, String> {
        let named = |template: Template| match node.parse() {
            Ok(ip) => template.with_ip_addresses([ip]),
            Err(_) => template.with_dns_names([node.to_owned()]),
        };
        Ok(match self {
            Self::Given(addresses) => Some(named(Template::node(node).with_ip_addresses(addresses.iter().copied()))),
            Self::File(path) => {
                let bad = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                let text = files::read_text(path).map_err(|error| bad(&error))?;
                addresses::Addresses::parse(&text).map_err(|error| bad(&error))?.template(node).map(named)
            }
            Self::Cluster => match object.and_then(NodeObject::addresses).transpose()? {
                Some(addresses) => addresses.template(node),
                None => return Err("the addresses of the node are not known yet".into()),
            },
        })
    }

    /// Whether they may change.
    pub(super) const fn may_change(&self) -> bool {
        matches!(self, Self::File(_))
    }
}
