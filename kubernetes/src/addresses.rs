//! Derives the template of a node's serving certificate from the addresses of the node, by kubelet's rules. Unlike
//! kubelet, reports addresses that cannot be used.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use perennial::{Template, is_dns_name};
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as ValueError;
use serde::{Deserialize, Serialize};

use crate::cluster::printable;

/// The type of a node address: `status.addresses[].type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AddressType {
    /// The host name that the node reports: a DNS name, or an IP address.
    Hostname,
    /// An IP address within the cluster.
    #[serde(rename = "InternalIP")]
    InternalIp,
    /// An IP address by which the node is reached from outside the cluster.
    #[serde(rename = "ExternalIP")]
    ExternalIp,
    /// A DNS name within the cluster.
    #[serde(rename = "InternalDNS")]
    InternalDns,
    /// A DNS name by which the node is reached from outside the cluster.
    #[serde(rename = "ExternalDNS")]
    ExternalDns,
    /// A type that this version of perennial does not know: Kubernetes may add types.
    #[serde(other)]
    Other,
}

/// Displays the type as in Kubernetes, such as `InternalIP`.
impl fmt::Display for AddressType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// One entry of `status.addresses` of a Node object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// The type of the address.
    #[serde(rename = "type")]
    pub kind: AddressType,
    /// The DNS name or the IP address.
    pub address: String,
}

/// A family of IP addresses.
#[derive(Clone, Copy, Debug, derive_more::Display, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    #[display("IPv4")]
    V4,
    /// IPv6.
    #[display("IPv6")]
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The DNS names and IP addresses for a node's serving certificate, sorted and without duplicates.
///
/// ```
/// use perennial_kubernetes::addresses::Addresses;
///
/// let addresses = Addresses::parse("InternalIP 10.0.0.7\nworker-1.example  # from DHCP")?;
/// let template = addresses.template("worker-1").expect("an IP address");
/// assert!(template.dns_names().eq(["worker-1.example"]), "{template}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    dns_names: BTreeSet<String>,
    ip_addresses: BTreeSet<IpAddr>,
    unusable: Vec<String>,
}

impl Addresses {
    /// Divides node addresses into DNS names and IP addresses. An IP address counts as one under any known type, even
    /// under a DNS type. Skips empty addresses silently. [`unusable`](Self::unusable) lists the other addresses that
    /// are left out.
    ///
    /// Source: kubelet's `addressesToHostnamesAndIPs`, with two differences: kubelet drops unusable addresses silently,
    /// and takes an IP address under a DNS type for a DNS name.
    pub fn of(addresses: impl IntoIterator<Item = NodeAddress>) -> Self {
        let mut of = Self::default();
        for NodeAddress { kind, address } in addresses {
            match usable(kind, &address) {
                // First, since an empty address is neither a name nor an error: kubelet skips it silently.
                _ if address.is_empty() => {}
                Ok(Some(ip)) => drop(of.ip_addresses.insert(ip)),
                Ok(None) => drop(of.dns_names.insert(address)),
                Err(why) => of.unusable.push(format!("{kind} {}: {why}", printable(&address))),
            }
        }
        of
    }

    /// Parses the text of an address file: one address in a line, which may begin with the type of the address
    /// (`InternalIP 10.0.0.7`, `worker.example`). A `#` begins a comment.
    ///
    /// # Errors
    /// [`AddressError`]: the first line that is not a usable address.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let mut addresses = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            let bad = |why| AddressError { line: i + 1, why };
            let (kind, address) = match *words.as_slice() {
                [] => continue,
                [address] => (AddressType::Hostname, address),
                [kind, address] => match AddressType::deserialize(kind.into_deserializer()) {
                    Ok(AddressType::Other) | Err::<_, ValueError>(_) => {
                        return Err(bad(
                            "expected Hostname, InternalIP, ExternalIP, InternalDNS or ExternalDNS before the address",
                        ));
                    }
                    Ok(kind) => (kind, address),
                },
                _ => return Err(bad("more than one address in this line")),
            };
            usable(kind, address).map_err(bad)?;
            addresses.push(NodeAddress { kind, address: address.to_owned() });
        }
        Ok(Self::of(addresses))
    }

    /// Reads `status.addresses` of a Node object in JSON.
    ///
    /// # Errors
    /// [`serde_json::Error`] if `json` is not a Node object with a status.
    pub fn of_node(json: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct NodeObject {
            status: NodeStatus,
        }
        #[derive(Deserialize)]
        struct NodeStatus {
            #[serde(default)]
            addresses: Vec<NodeAddress>,
        }
        serde_json::from_slice(json).map(|NodeObject { status }| Self::of(status.addresses))
    }

    /// Drops the IP addresses that are not of `family`. Keeps all DNS names.
    pub fn of_family(mut self, family: Family) -> Self {
        self.ip_addresses.retain(|ip| Family::of(*ip) == family);
        self
    }

    /// The addresses that are left out of the certificate, each with its type and the reason: the type is unknown, the
    /// text is not an address of this type, or other hosts cannot reach the node at the IP address.
    pub fn unusable(&self) -> &[String] {
        &self.unusable
    }

    /// The template of a serving certificate for `node` with these DNS names and IP addresses. `None` if there is no IP
    /// address, as in kubelet: signers and peers expect the certificate of a node to have an IP address.
    pub fn template(&self, node: &str) -> Option<Template> {
        let template = Template::node(node).with_dns_names(self.dns_names.iter().cloned());
        (!self.ip_addresses.is_empty()).then(|| template.with_ip_addresses(self.ip_addresses.iter().copied()))
    }
}

/// Checks that a serving certificate can be requested for this DNS name.
///
/// # Errors
/// The reason, as a sentence: `name` is an IP address, a mistyped IP address, or otherwise no DNS name.
pub fn check_dns_name(name: &str) -> Result<(), &'static str> {
    match name.parse::<IpAddr>() {
        Ok(_) => Err("this is an IP address, not a DNS name"),
        Err(_) => usable(AddressType::ExternalDns, name).map(drop),
    }
}

/// Refuses an IP address at which no other host can reach the node.
///
/// Source: kubelet's `validateNodeIP`. kubelet also requires that an interface of the host has the address. perennial
/// does not, since other hosts may reach the node at a translated or floating address, which no interface has.
///
/// # Errors
/// The reason, as a sentence: the address is unspecified, loopback, link-local, multicast, broadcast or in 0.0.0.0/8.
/// In kubelet's `--node-ip`, the unspecified addresses `0.0.0.0` and `::` choose a family: a caller that allows these
/// two must handle them before the call.
pub const fn check_node_ip(ip: IpAddr) -> Result<(), &'static str> {
    // The rules for the IPv4 address hold for an IPv6 address that maps it (RFC 4291 §2.5.5.2), too.
    let ip = ip.to_canonical();
    if ip.is_unspecified() {
        return Err("this stands for all addresses of a host, and cannot be the address of a node");
    }
    if ip.is_loopback() {
        return Err("this is a loopback address; other hosts cannot reach the node at it");
    }
    if ip.is_multicast() {
        return Err("this is a multicast address; it belongs to no single node");
    }
    match ip {
        IpAddr::V4(ip) if ip.is_link_local() => Err(LINK_LOCAL),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Err(LINK_LOCAL),
        IpAddr::V4(ip) if ip.is_broadcast() || ip.octets()[0] == 0 => {
            Err("this is a reserved address; no node can have it")
        }
        IpAddr::V4(_) | IpAddr::V6(_) => Ok(()),
    }
}

const LINK_LOCAL: &str = "this is a link-local address; it identifies the node on one network only";

/// Classifies an address: `Some` for an IP address, `None` for a DNS name. The error is the reason why the address
/// cannot be used.
fn usable(kind: AddressType, address: &str) -> Result<Option<IpAddr>, &'static str> {
    // A template drops the final dot of an absolute name.
    let name = address.strip_suffix('.').unwrap_or(address);
    match address.parse::<IpAddr>() {
        _ if kind == AddressType::Other => Err("this type of address is unknown"),
        Ok(ip) => check_node_ip(ip).map(|()| Some(ip.to_canonical())),
        Err(_) if matches!(kind, AddressType::InternalIp | AddressType::ExternalIp) => Err("this is not an IP address"),
        Err(_) if !is_dns_name(name) => Err("this is neither an IP address nor a DNS name"),
        Err(_) if ends_in_a_number(name) => {
            Err("this is a malformed IP address; it is no DNS name either, since none ends in a number")
        }
        Err(_) => Ok(None),
    }
}

/// True if `name` has several labels and the last one is a number. Such a name is a mistyped IP address, since
/// top-level domains are alphabetic (RFC 1123 §2.1). A single label is a host's own name and may be a number.
fn ends_in_a_number(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, last)| last.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The first line of an address file that is not a usable address. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct AddressError {
    line: usize,
    why: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_file_with_types_and_comments_is_parsed() {
        let text = "# of worker-1\nInternalIP 10.0.0.7 # eth0\n\n2001:db8::7\r\nworker-1.example\nHostname worker-1\n\
                    ::ffff:10.0.0.7\n";
        let template = Addresses::parse(text).unwrap().template("worker-1").unwrap();
        assert!(template.dns_names().eq(["worker-1", "worker-1.example"]), "{template}");
        assert!(
            template.ip_addresses().eq(["10.0.0.7".parse::<IpAddr>().unwrap(), "2001:db8::7".parse().unwrap()]),
            "{template}"
        );
        assert_eq!(Addresses::parse("").unwrap().template("worker-1"), None);
    }

    #[test]
    fn address_file_error_names_line() {
        for (text, message) in [
            ("10.0.0.7\n10.0.0.8 10.0.0.9 x", "line 2: more than one address in this line"),
            ("10.0.0.7 10.0.0.8", "line 1: expected Hostname, InternalIP"),
            ("InternalIP worker", "line 1: this is not an IP address"),
            ("-worker", "line 1: this is neither an IP address nor a DNS name"),
            ("a..b", "line 1: this is neither"),
            ("10.0.0.256", "line 1: this is a malformed IP address"),
            ("Hostname 001.1.1.1", "line 1: this is a malformed IP address"),
            ("InternalDNS 10.0.7", "line 1: this is a malformed IP address"),
            ("Other 10.0.0.7", "line 1: expected Hostname, InternalIP"),
            ("10.0.0.7\n::", "line 2: this stands for all addresses of a host"),
            ("127.0.0.53", "line 1: this is a loopback address"),
        ] {
            let error = Addresses::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    /// From the field, a certificate template with names that end in a dot:
    /// <https://github.com/siderolabs/talos-cloud-controller-manager/issues/360>
    #[test]
    fn absolute_dns_name_loses_its_final_dot() {
        let template = Addresses::parse("10.0.0.7\nSvc.Example.\nsvc.example\n").unwrap().template("w").unwrap();
        assert!(template.dns_names().eq(["svc.example"]), "{template}");
        assert_eq!(check_dns_name("*.svc.example."), Ok(()));
        for bad in [".", "a..", "*.", "10.0.0.256."] {
            assert!(check_dns_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn number_as_only_or_first_dns_label_is_accepted() {
        let template = Addresses::parse("10.0.0.7\n17\n42.example").unwrap().template("17").unwrap();
        assert!(template.dns_names().eq(["17", "42.example"]), "{template}");
    }

    #[test]
    fn unusable_address_is_listed_with_reason() {
        let node = br#"{"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.7"},
                        {"type":"PodIP","address":"10.1.0.1"},{"type":"Hostname","address":"10.0.0.256"},
                        {"type":"ExternalIP","address":"worker-1"},{"type":"Hostname","address":""}]}}"#;
        let addresses = Addresses::of_node(node).unwrap();
        let template = addresses.template("worker-1").unwrap();
        assert_eq!((template.dns_names().count(), template.ip_addresses().count()), (0, 1));
        assert_eq!(
            addresses.unusable(),
            [
                "Other 10.1.0.1: this type of address is unknown",
                "Hostname 10.0.0.256: this is a malformed IP address; it is no DNS name either, since none ends in a \
                 number",
                "ExternalIP worker-1: this is not an IP address",
            ]
        );
    }

    #[test]
    fn ip_unreachable_from_other_hosts_is_refused() {
        for (ip, why) in [
            ("0.0.0.0", Some("all addresses")),
            ("::", Some("all addresses")),
            ("::ffff:0.0.0.0", Some("all addresses")),
            ("0.1.2.3", Some("reserved")),
            ("127.0.0.1", Some("loopback")),
            ("127.255.0.1", Some("loopback")),
            ("::1", Some("loopback")),
            ("::ffff:127.0.0.1", Some("loopback")),
            ("169.254.1.1", Some("link-local")),
            ("fe80::1", Some("link-local")),
            ("febf::1", Some("link-local")),
            ("224.0.0.1", Some("multicast")),
            ("239.1.2.3", Some("multicast")),
            ("ff02::1", Some("multicast")),
            ("255.255.255.255", Some("reserved")),
            ("10.0.0.7", None),
            ("100.64.0.1", None),
            ("240.0.0.1", None),
            ("fd00::7", None),
            ("2001:db8::7", None),
        ] {
            let checked = check_node_ip(ip.parse().unwrap());
            assert_eq!(
                checked.err().is_some_and(|found| why.is_some_and(|why| found.contains(why))),
                why.is_some(),
                "{ip}"
            );
            // Files and Node objects have the same rule.
            assert_eq!(Addresses::parse(ip).is_err(), why.is_some(), "{ip}");
            for kind in ["InternalIP", "ExternalIP", "InternalDNS", "Hostname"] {
                let json = format!(r#"{{"status":{{"addresses":[{{"type":"{kind}","address":"{ip}"}}]}}}}"#);
                let addresses = Addresses::of_node(json.as_bytes()).unwrap();
                assert_eq!(addresses.unusable().len(), usize::from(why.is_some()), "{kind} {ip}");
                assert_eq!(addresses.template("worker-1").is_none(), why.is_some(), "{kind} {ip}");
            }
        }
    }

    #[test]
    fn of_family_drops_only_ips_of_other_family() {
        let addresses = || Addresses::parse("10.0.0.7\nfd00::7\nworker.example").unwrap();
        for (family, ip) in [(Family::V4, "10.0.0.7"), (Family::V6, "fd00::7")] {
            let template = addresses().of_family(family).template("worker-1").unwrap();
            assert!(template.ip_addresses().eq([ip.parse::<IpAddr>().unwrap()]), "{template}");
            assert!(template.dns_names().eq(["worker.example"]), "{template}");
        }
    }

    #[test]
    fn node_object_addresses_become_template() {
        let node = br#"{"kind":"Node","status":{"addresses":[{"type":"InternalIP","address":"10.0.0.7"},
                        {"type":"InternalDNS","address":"10.0.0.8"},{"type":"Hostname","address":"worker-1"}]}}"#;
        let template = Addresses::of_node(node).unwrap().template("worker-1").unwrap();
        assert_eq!((template.dns_names().count(), template.ip_addresses().count()), (1, 2));
        assert_eq!(Addresses::of_node(br#"{"status":{}}"#).unwrap(), Addresses::default());
        assert!(Addresses::of_node(b"{}").is_err());
    }
}
