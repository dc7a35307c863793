//! The names and usages that Kubernetes' own signers admit: `ValidateKubeletClientCSR` and `ValidateKubeletServingCSR` in
//! `pkg/apis/certificates/helpers.go`, `pkg/controller/certificates/signer/signer.go`, and the admission plugin
//! CertificateSubjectRestriction.

use perennial::Template;

use crate::objects::{CLIENT_SIGNER, KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER};

/// Checks the names of `template` by Kubernetes' rules for the signer. Accepts all names for a signer of another
/// controller, which decides.
///
/// # Errors
/// The rule by which the signer would refuse the request, as a sentence.
pub(super) fn check(signer_name: &str, template: &Template) -> Result<(), String> {
    let is_serving = match signer_name {
        KUBELET_CLIENT_SIGNER => false,
        KUBELET_SERVING_SIGNER => true,
        CLIENT_SIGNER if template.organizations().any(|name| name == "system:masters") => {
            return Err(format!(
                "API servers refuse a request for the organization system:masters to the signer {signer_name}; remove \
                 the organization, and grant rights with RBAC"
            ));
        }
        _ => return Ok(()),
    };
    let has_hosts = template.dns_names().next().is_some() || template.ip_addresses().next().is_some();
    let rules = [
        (template.organizations().eq(["system:nodes"]), "needs the organization system:nodes, and no other one"),
        (template.common_name().starts_with("system:node:"), "needs a common name that begins with system:node:"),
        (template.uris().next().is_none(), "admits no URIs"),
        (is_serving || !has_hosts, "admits no DNS names or IP addresses"),
        (!is_serving || has_hosts, "needs a DNS name or an IP address"),
    ];
    match rules.into_iter().find(|(is_kept, _)| !is_kept) {
        Some((_, rule)) => Err(format!(
            "the signer {signer_name} {rule}, and would refuse a request for {template}; change the names, or use a \
             signer for other certificates"
        )),
        None => Ok(()),
    }
}

/// Checks usages by Kubernetes' rules for the signer. Accepts all usages for a signer of another controller.
///
/// # Errors
/// The rule by which the signer would refuse the request, as a sentence.
pub(super) fn check_usages(signer_name: &str, usages: &[String]) -> Result<(), String> {
    let (needed, admitted): (&[&str], &[&str]) = match signer_name {
        KUBELET_CLIENT_SIGNER => (&["digital signature", "client auth"], &["key encipherment"]),
        KUBELET_SERVING_SIGNER => (&["digital signature", "server auth"], &["key encipherment"]),
        CLIENT_SIGNER => (&["client auth"], &["digital signature", "key encipherment"]),
        _ => return Ok(()),
    };
    let has = |usage: &&str| usages.iter().any(|given| given == usage);
    let is_known = |usage: &String| needed.iter().chain(admitted).any(|known| usage == known);
    if needed.iter().all(has) && usages.iter().all(is_known) {
        return Ok(());
    }
    Err(format!(
        "the signer {signer_name} needs the usages {}, admits {}, and would refuse a request for {}; change the usages, \
         or use a signer for other certificates",
        needed.join(", "),
        admitted.join(", "),
        usages.join(", "),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signers_for_kubelets_refuse_names_that_kubernetes_refuses() {
        let (node, ip) = (|| Template::node("a"), [[192, 0, 2, 1].into()]);
        let serving = || node().with_ip_addresses(ip);
        let uri = ["spiffe://a.example/b"];
        for (signer, template, why) in [
            (KUBELET_CLIENT_SIGNER, node(), None),
            (KUBELET_CLIENT_SIGNER, node().with_serial_number("7").with_organizational_units(["u"]), None),
            (KUBELET_CLIENT_SIGNER, node().with_organizations(["more"]), Some("organization system:nodes")),
            (KUBELET_CLIENT_SIGNER, Template::new("system:node:a"), Some("organization system:nodes")),
            (KUBELET_CLIENT_SIGNER, Template::new("a").with_organizations(["system:nodes"]), Some("common name")),
            (KUBELET_CLIENT_SIGNER, node().with_uris(uri), Some("no URIs")),
            (KUBELET_CLIENT_SIGNER, serving(), Some("no DNS names or IP addresses")),
            (KUBELET_CLIENT_SIGNER, node().with_dns_names(["a"]), Some("no DNS names or IP addresses")),
            (KUBELET_SERVING_SIGNER, serving(), None),
            (KUBELET_SERVING_SIGNER, node().with_dns_names(["a"]), None),
            (KUBELET_SERVING_SIGNER, node(), Some("needs a DNS name or an IP address")),
            (KUBELET_SERVING_SIGNER, serving().with_uris(uri), Some("no URIs")),
            (CLIENT_SIGNER, Template::new("a").with_organizations(["b", "system:masters"]), Some("system:masters")),
            ("example.com/mesh", Template::new("a").with_organizations(["system:masters"]), None),
            (CLIENT_SIGNER, Template::new("a").with_uris(uri).with_dns_names(["a"]), None),
            ("example.com/mesh", Template::default().with_uris(uri), None),
        ] {
            let checked = check(signer, &template);
            let refused = checked.as_ref().err();
            assert_eq!(refused.is_some(), why.is_some(), "{signer} {template}: {refused:?}");
            assert!(refused.is_none_or(|text| text.contains(why.unwrap())), "{signer} {template}: {refused:?}");
        }
    }

    #[test]
    fn signers_of_kubernetes_refuse_usages_that_kubernetes_refuses() {
        let [signature, key, client, server] = ["digital signature", "key encipherment", "client auth", "server auth"];
        for (signer, usages, is_good) in [
            (KUBELET_CLIENT_SIGNER, &[signature, client][..], true),
            (KUBELET_CLIENT_SIGNER, &[client, key, signature], true),
            (KUBELET_CLIENT_SIGNER, &[client], false),
            (KUBELET_CLIENT_SIGNER, &[signature, client, server], false),
            (KUBELET_SERVING_SIGNER, &[signature, key, server], true),
            (KUBELET_SERVING_SIGNER, &[signature, client], false),
            (CLIENT_SIGNER, &[client], true),
            (CLIENT_SIGNER, &[client, key, signature], true),
            (CLIENT_SIGNER, &[signature, server], false),
            (CLIENT_SIGNER, &[client, server], false),
            ("example.com/mesh", &[server, client, "any"], true),
        ] {
            let usages: Vec<String> = usages.iter().map(ToString::to_string).collect();
            let checked = check_usages(signer, &usages);
            assert_eq!(checked.is_ok(), is_good, "{signer} {usages:?}: {checked:?}");
        }
    }
}
