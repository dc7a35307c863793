//! Approval of nodes' serving certificates without a person.

use std::net::IpAddr;

use perennial::same_dns_name;
use perennial_pki::RequestFacts;

use perennial_kubernetes::addresses::NodeAddress;

/// The rule by which the server approves nodes' serving certificates without a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServingApproval {
    /// Approves none, as in a cluster: a cluster cannot verify the addresses of a node.
    #[default]
    Never,
    /// Approves a certificate if each of its DNS names and IP addresses is the node's name, is an address of the Node
    /// object, or is in this list. The node's name does not count if it is also the name of a service, such as
    /// `kubernetes.default.svc`: the holder of a bootstrap token chooses the node's name, and could impersonate the
    /// service.
    Own(Vec<String>),
    /// Approves certificates for any name and address: any node can impersonate any server.
    Any,
}

impl ServingApproval {
    /// True if this rule approves a serving certificate with the names of `request` for the node named `node`, whose
    /// Node object has these addresses.
    pub(super) fn covers(&self, node: &str, addresses: &[NodeAddress], request: &RequestFacts) -> bool {
        let more = match self {
            Self::Never => return false,
            Self::Any => return true,
            Self::Own(more) => more,
        };
        let own = |wanted: &str| {
            (same_dns_name(wanted, node) && !names_a_service(node))
                || addresses.iter().any(|NodeAddress { address, .. }| same(address, wanted))
                || more.iter().any(|allowed| same(allowed, wanted))
        };
        let names = &request.names;
        names.dns_names.iter().all(|name| own(name)) && names.ip_addresses.iter().all(|ip| own(&ip.to_string()))
    }
}

/// True if the two names are equal. IP addresses are compared by value, DNS names without regard to case and trailing
/// dot.
fn same(a: &str, b: &str) -> bool {
    match (a.parse::<IpAddr>(), b.parse::<IpAddr>()) {
        (Ok(a), Ok(b)) => a == b,
        (Err(_), Err(_)) => same_dns_name(a, b),
        _ => false,
    }
}

/// True for `localhost`, and for names that clients in a cluster resolve to a service, such as
/// `kubernetes.default.svc`.
fn names_a_service(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let labels: Vec<&str> = name.split('.').collect();
    matches!(labels.as_slice(), ["localhost"] | ["kubernetes"] | ["kubernetes", "default"])
        || labels.iter().skip(1).any(|label| *label == "svc")
}
