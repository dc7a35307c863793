//! Which addresses the serving certificate is for, and when they change.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use perennial::Template;

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
                addresses.template("").map_err(Failure::Usage)?;
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

    /// What to ask for now; `None` without an address to ask for.
    pub(super) fn template(&self, node: &str) -> Result<Option<Template>, String> {
        let template = Template::node(node).with_dns_names([node.to_owned()]);
        let template = match self {
            Self::Given(addresses) => template.with_ip_addresses(addresses.iter().copied()),
            Self::File(path) => {
                let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
                read(&text, template).map_err(|why| format!("{}: {why}", path.display()))?
            }
        };
        Ok((!template.ip_addresses().is_empty()).then_some(template))
    }

    /// Whether they may change.
    pub(super) const fn may_change(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

/// One address a line: an IP address, or else a DNS name. What follows a `#` is for people.
fn read(text: &str, template: Template) -> Result<Template, String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let filled = lines.enumerate().filter(|(_, line)| !line.is_empty());
    filled.into_iter().try_fold(template, |template, (i, line)| match line.parse::<IpAddr>() {
        Ok(address) => Ok(template.with_ip_addresses([address])),
        Err(_) if line.contains(char::is_whitespace) => Err(format!("line {}: more than one address", i + 1)),
        Err(_) => Ok(template.with_dns_names([line])),
    })
}
