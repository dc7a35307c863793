//! The source of the IP addresses and DNS names in the serving certificate.

use std::net::IpAddr;
use std::path::PathBuf;

use perennial::Template;
use perennial_kubernetes::addresses::{self, Family};
use perennial_rotation::NotYet;

use super::node_object::NodeObject;
use crate::cli::Which;
use crate::failure::Failure;
use crate::files;

/// The source of the addresses in the serving certificate.
#[derive(Clone, PartialEq)]
pub(super) enum Addresses {
    /// The addresses of `--node-ip`.
    Given(Vec<IpAddr>),
    /// `--node-addresses`, a file that is read again when it changes.
    File(PathBuf),
    /// The Node object. If a family is given, only the object's addresses of that family count.
    Cluster(Option<Family>),
}

impl Addresses {
    /// Chooses the source by the flags.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the file cannot be used, or the addresses cannot be combined.
    pub(super) fn of(which: &Which) -> Result<Self, Failure> {
        match (&which.node_addresses, which.node_ip.as_slice()) {
            (Some(file), _) => {
                let addresses = Self::File(file.clone());
                addresses.template("node", None).map_err(|why| Failure::Usage(why.to_string()))?;
                Ok(addresses)
            }
            (None, []) => Ok(Self::Cluster(None)),
            // As kubelet's --node-ip: kubelet detects the node's address of this family, and puts it into the Node
            // object.
            (None, [ip]) if ip.is_unspecified() => Ok(Self::Cluster(Some(Family::of(*ip)))),
            (None, given) if given.iter().any(IpAddr::is_unspecified) => Err(Failure::Usage(
                "--node-ip: 0.0.0.0 and :: mean the node's own addresses of one family; give one of them alone, or \
                 addresses"
                    .into(),
            )),
            (None, given) => Ok(Self::Given(given.to_vec())),
        }
    }

    /// The template of the serving certificate of node `node`; `None` if the source has no address. If the source is a
    /// flag or a file, the template contains the node's name as well.
    ///
    /// If the source is the Node object, `object` must be given. The names in the template are then those of the Node
    /// object, since approvers compare a request with that object.
    ///
    /// # Errors
    /// [`NotYet`] if the addresses are not known. Before the first read of the Node object, [`NotYet::is_coming`] is
    /// true for the error: the caller only has to wait.
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
                            let why = format!("the Node object has no {family} address that a certificate can name");
                            NotYet::new(why)
                        };
                        Some(addresses.of_family(*family).template(node).ok_or_else(missing)?)
                    }
                    // A node whose name is an address, such as 127.0.0.1 in a local cluster, has that address as well.
                    (None, Ok(ip)) => Some(addresses.template(node).map_or_else(
                        || Template::node(node).with_ip_addresses([ip]),
                        |template| template.with_ip_addresses([ip]),
                    )),
                    (None, Err(_)) => addresses.template(node),
                }
            }
        })
    }

    /// True if the main loop must poll the source for changes. [`NodeObject`] polls on a thread of its own.
    pub(super) const fn may_change(&self) -> bool {
        matches!(self, Self::File(_))
    }
}
