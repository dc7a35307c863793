//! Parses one trust bundle of a certificate list.

use std::path::PathBuf;

use perennial_kubernetes::BundleSelection;
use perennial_rotation::FileOptions;

use super::{absolute, asker_of, flag};
use crate::certificates::member::{Asker, ListedBundle};
use crate::certificates::parse::location;
use crate::certificates::reader::Section;
use crate::cli::{self, TrustBundle};

/// Parses a trust bundle. `None` if a necessary value is missing or wrong; all errors are reported.
pub(in crate::certificates) fn trust_bundle(section: &Section<'_>) -> Option<ListedBundle> {
    section.allow(&["signer", "name", "labels", "path", "identity", "clusterKubeconfig", "access", "replaceForeign"]);
    section.require("path", "/etc/mesh/ca.pem");
    section.require("identity", "{certificate: node}");
    let text = |text: &str| match text.trim() {
        "" => Err("expected text"),
        text => Ok(text.to_owned()),
    };
    let labels = section.parse("labels", text);
    let selection = match (section.has("signer"), section.has("name")) {
        (true, false) => {
            let name = section.parse("signer", cli::signer_name);
            name.map(|name| BundleSelection::Signer { name, labels: labels.unwrap_or_default() })
        }
        (false, true) => {
            if section.has("labels") {
                section
                    .fault("labels", "labels select among the bundles of a signer; use `signer`, or remove this key");
            }
            section.parse("name", text).map(BundleSelection::Name)
        }
        (true, true) => {
            section.fault_here("signer and name exclude each other; keep one");
            None
        }
        (false, false) => {
            section.fault_here("add `signer` to follow all bundles of a signer, or `name` to follow one bundle");
            None
        }
    };
    let selection = selection.filter(|selection| {
        // The name of a signer is checked above.
        let key = if let BundleSelection::Signer { .. } = selection { "labels" } else { "name" };
        selection.check().map_err(|why| section.fault(key, why)).is_ok()
    });
    let path = section.parse("path", absolute);
    let access = section.section("access").map(|section| location::public_access(&section)).unwrap_or_default();
    let replaces_foreign = section.parse("replaceForeign", flag).unwrap_or_default();
    let asker = section.section("identity");
    let asker = asker.as_ref().and_then(|asker| asker_of(asker, &["certificate", "kubeconfig", "tokenFile"]));
    let cluster = section.parse("clusterKubeconfig", absolute);
    let cluster_kubeconfig = cluster.or_else(|| match &asker {
        // Completed with that of the certificate.
        Some(Asker::Member(_)) => Some(PathBuf::new()),
        Some(Asker::Kubeconfig(path) | Asker::Own { bootstrap_kubeconfig: path }) => Some(path.clone()),
        Some(Asker::TokenFile(_)) if !section.has("clusterKubeconfig") => {
            let why = "a token names no API server; add `clusterKubeconfig`, a kubeconfig with its URL and CA";
            section.fault("identity", why);
            None
        }
        Some(Asker::TokenFile(_)) | None => None,
    });
    let options = FileOptions { replaces_foreign, ..access };
    Some(ListedBundle {
        bundle: TrustBundle { selection: selection?, path: path?, options },
        asker: asker?,
        cluster_kubeconfig: cluster_kubeconfig?,
        // Known once all certificates are.
        volume: None,
    })
}
