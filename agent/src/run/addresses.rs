//! Which addresses the serving certificate is for, and when they change.

use std::net::IpAddr;
use std::path::PathBuf;

use perennial::Template;
use perennial_kubernetes::addresses::{self, Family};
use perennial_rotation::NotYet;

use super::node_object::NodeObject;
use crate::cli::Which;
use crate::failure::Failure;
use crate::files;

/// Where the addresses come from.
#[derive(Clone, PartialEq)]
pub(super) enum Addresses {
    Given(Vec<IpAddr>),
    File(PathBuf),
    /// The Node object; of one family only, if one is wished for.
    Cluster(Option<Family>),
}

impl Addresses {
    /// As the flags say.
    pub(super) fn of(which: &Which) -> Result<Self, Failure> {
        match (&which.node_addresses, which.node_ip.as_slice()) {
            (Some(file), _) => {
                let addresses = Self::File(file.clone());
                addresses.template("node", None).map_err(|why| Failure::Usage(why.to_string()))?;
                Ok(addresses)
            }
            (None, []) => Ok(Self::Cluster(None)),
            // kubelet's meaning: which address of this family is the node's is found out. kubelet, which has the same
            // flag, does so and puts it into the Node object.
            (None, [ip]) if ip.is_unspecified() => Ok(Self::Cluster(Some(Family::of(*ip)))),
            (None, given) if given.iter().any(IpAddr::is_unspecified) => Err(Failure::Usage(
                "--node-ip: 0.0.0.0 and :: mean the node's own addresses of one family; give one of them alone, or \
                 addresses"
                    .into(),
            )),
            (None, given) => Ok(Self::Given(given.to_vec())),
        }
    }

    /// What to ask for now; `None` without an address to ask for. The node's name is among the names, unless the Node
    /// object says what is: approvers compare with that. `object` is what it said, if it was looked at.
    ///
    /// # Errors
    /// [`NotYet`]: the addresses are not known. They are coming while the Node object has not been looked at.
    pub(super) fn template(&self, node: &str, object: Option<&NodeObject>) -> Result<Option<Template>, NotYet> {
        let named = |template: Template| match node.parse() {
            Ok(ip) => template.with_ip_addresses([ip]),
            Err(_) => template.with_dns_names([node.to_owned()]),
        };
        Ok(match self {
            Self::Given(addresses) => Some(named(Template::node(node).with_ip_addresses(addresses.iter().copied()))),
            Self::File(path) => {
                let bad = |error: &dyn std::fmt::Display| NotYet::new(format!("{}: {error}", path.display()));
                let text = files::read_text(path).map_err(|error| bad(&error))?;
                addresses::Addresses::parse(&text).map_err(|error| bad(&error))?.template(node).map(named)
            }
            Self::Cluster(family) => {
                let addresses = object.and_then(NodeObject::addresses).transpose()?;
                let addresses =
                    addresses.ok_or_else(|| NotYet::coming("waiting for the addresses of the Node object"))?;
                match (family, node.parse()) {
                    (Some(family), _) => {
                        let missing = || {
                            let why = format!("the Node object has no {family} address that a certificate can be for");
                            NotYet::new(why)
                        };
                        Some(addresses.of_family(*family).template(node).ok_or_else(missing)?)
                    }
                    // Of a node called 127.0.0.1, as in a local cluster, that is the address.
                    (None, Ok(ip)) => Some(addresses.template(node).map_or_else(
                        || Template::node(node).with_ip_addresses([ip]),
                        |template| template.with_ip_addresses([ip]),
                    )),
                    (None, Err(_)) => addresses.template(node),
                }
            }
        })
    }

    /// Whether they may change.
    pub(super) const fn may_change(&self) -> bool {
        matches!(self, Self::File(_))
    }
}
