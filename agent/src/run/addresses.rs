//! Which addresses the serving certificate is for, and when they change.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use perennial::Template;
use perennial_kubernetes::addresses;

use crate::cli::Which;
use crate::failure::Failure;

/// Where the addresses come from.
#[derive(Clone)]
pub(super) enum Addresses {
    Given(Vec<IpAddr>),
    File(PathBuf),
}

impl Addresses {
    /// As the flags say.
    pub(super) fn of(which: &Which, config: Option<&Path>) -> Result<Self, Failure> {
        match (&which.node_addresses, which.node_ip.as_slice()) {
            (Some(file), _) => {
                let addresses = Self::File(file.clone());
                addresses.template("node").map_err(Failure::Usage)?;
                Ok(addresses)
            }
            (None, []) => {
                let by = config.filter(|_| which.rotate_server_certificates.is_none());
                let by = by.map_or_else(|| "--rotate-server-certificates".into(), |path| path.display().to_string());
                Err(Failure::Usage(format!(
                    "{by} asks for a serving certificate, but for which addresses? give --node-ip or --node-addresses"
                )))
            }
            (None, given) => Ok(Self::Given(given.to_vec())),
        }
    }

    /// What to ask for now; `None` without an address to ask for. The node's name is always among the names.
    pub(super) fn template(&self, node: &str) -> Result<Option<Template>, String> {
        let template = match self {
            Self::Given(addresses) => Some(Template::node(node).with_ip_addresses(addresses.iter().copied())),
            Self::File(path) => {
                let bad = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                let text = fs::read_to_string(path).map_err(|error| bad(&error))?;
                addresses::Addresses::parse(&text).map_err(|error| bad(&error))?.template(node)
            }
        };
        Ok(template.map(|template| template.with_dns_names([node.to_owned()])))
    }

    /// Whether they may change.
    pub(super) const fn may_change(&self) -> bool {
        matches!(self, Self::File(_))
    }
}
