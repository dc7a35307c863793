//! The state of a file of CA certificates, for the log, metrics, `/state` and the page.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use perennial::UnixTime;
use perennial_kubernetes::BundleSelection;
use perennial_pki::Roots;
use perennial_rotation::FileStoreError;
use serde_json::{Value, json};

use super::blocks;

/// The state of a [`BundleFile`](super::BundleFile) at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BundleView {
    pub(crate) selection: BundleSelection,
    pub(crate) path: PathBuf,
    /// The CA certificates that the file had when this process read it first.
    pub(crate) found: Option<Roots>,
    /// The CA certificates in the file; `None` if there are none, or none of perennial.
    pub(crate) written: Option<Roots>,
    /// Modification time of the file; `None` without CA certificates.
    pub(crate) changed: Option<UnixTime>,
    /// Time of the last answer or event of the API server.
    pub(crate) read: Option<UnixTime>,
    /// Number of selected bundles on the API server; `None` before the first answer.
    pub(crate) bundles: Option<usize>,
    /// The reason why the file may not have the certificates of the API server; `None` if it has.
    pub(crate) problem: Option<Problem>,
    /// True once the bundles were read and written, or an attempt has failed.
    pub(crate) is_settled: bool,
}

/// A problem of a trust bundle, and its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) why: String,
    pub(crate) remedy: &'static str,
}

impl Problem {
    /// The file cannot be read or written.
    pub(crate) fn of_file(error: &FileStoreError) -> Self {
        let remedy = match error.is_foreign() {
            true => {
                "if no program needs this file as it is, remove it, or set `replaceForeign=true` (in a certificate list \
                 `replaceForeign: true`)"
            }
            false => {
                "make room on the disk, and make sure that perennial can read and write the file and its directory"
            }
        };
        Self { why: error.to_string(), remedy }
    }

    /// The API server is not known.
    pub(super) fn of_connection(why: String) -> Self {
        Self { why, remedy: "mend this file, or name another one; perennial tries again every 30 seconds" }
    }

    /// The bundles on the API server cannot be read or used.
    pub(super) fn of_bundles(why: String) -> Self {
        let remedy = "check the ClusterTrustBundles (kubectl get clustertrustbundles), and that perennial may list and \
                      watch them (agent/docs/cluster.md)";
        Self { why, remedy }
    }

    /// There is no file, or it has no CA certificate.
    pub(super) fn unwritten(path: &Path) -> Self {
        let why = if path.exists() { "the file has no CA certificate" } else { "the file is not written yet" };
        let remedy = "start `perennial run` if it does not run: it writes the file once it has read the bundles, and its \
                      log has the reason if it cannot";
        Self { why: why.into(), remedy }
    }
}

impl BundleView {
    /// Names of the signer and of the bundle in the selection, one of which is empty.
    pub(crate) fn signer_and_name(&self) -> (&str, &str) {
        match &self.selection {
            BundleSelection::Signer { name, .. } => (name, ""),
            BundleSelection::Name(name) => ("", name),
        }
    }

    /// Number of CA certificates in the file.
    pub(crate) fn count(&self) -> usize {
        self.written.as_ref().map_or(0, |roots| roots.subjects().count())
    }

    /// Describes the certificates in the file for the log, compared with those of an earlier view.
    pub(crate) fn describe_change<'a>(&'a self, before: Option<&'a Roots>) -> String {
        // With the PEM blocks: a CA with a new key may have the same subject.
        let certificates = |roots: Option<&'a Roots>| -> BTreeSet<(String, &'a str)> {
            roots.into_iter().flat_map(|roots| roots.subjects().zip(blocks(roots))).collect()
        };
        let (now, before) = (certificates(self.written.as_ref()), certificates(before));
        let list = |what, others: &BTreeSet<_>, these: &BTreeSet<(String, _)>| {
            let names: Vec<_> = these.difference(others).map(|(subject, _)| subject).collect();
            if names.is_empty() { String::new() } else { format!(", {what}: {}", shortened(&names)) }
        };
        let (added, removed) = (list("added", &before, &now), list("removed", &now, &before));
        format!("{}: {} of {}{added}{removed}", self.path.display(), self.counted(), self.selection)
    }

    /// The number of CA certificates as a noun phrase.
    pub(crate) fn counted(&self) -> String {
        let count = self.count();
        format!("{count} CA certificate{}", if count == 1 { "" } else { "s" })
    }

    /// Names and values for `status` and the page for people, without the problem.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let count = self.bundles.map(|count| format!(" ({count} on the API server)")).unwrap_or_default();
        let subjects: Vec<String> = self.written.iter().flat_map(Roots::subjects).collect();
        let certificates = match subjects.len() {
            0 => "none".to_owned(),
            count => format!("{count}: {}", shortened(&subjects.iter().collect::<Vec<_>>())),
        };
        let time = |name, at: Option<UnixTime>| at.map(|at| (name, at.to_string()));
        let mut lines = vec![
            ("bundle", format!("{}{count}", self.selection)),
            ("file", self.path.display().to_string()),
            ("CAs", certificates),
        ];
        lines.extend(time("changed", self.changed));
        lines.extend(time("read", self.read));
        lines
    }

    /// The fields for events, `/state`, `status` and `verify`.
    pub(crate) fn to_json(&self) -> Value {
        let (signer, name) = self.signer_and_name();
        json!({
            "path": self.path.display().to_string(),
            "signer": signer,
            "name": name,
            "labels": match &self.selection {
                BundleSelection::Signer { labels, .. } => labels.as_str(),
                BundleSelection::Name(_) => "",
            },
            "bundles": self.bundles,
            "certificates": self.written.iter().flat_map(Roots::subjects).collect::<Vec<_>>(),
            "changed": self.changed.map(|at| at.to_string()),
            "read": self.read.map(|at| at.to_string()),
            "error": self.problem.as_ref().map(|problem| &problem.why),
            "remedy": self.problem.as_ref().map(|problem| problem.remedy),
        })
    }
}

/// The first five names, and the number of the others.
fn shortened(names: &[&String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(|name| perennial::printable(name)).collect::<Vec<_>>().join("; ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use perennial::Template;
    use perennial_pki::interim;

    use super::*;

    /// Certificates with new keys.
    fn roots(names: &[&str]) -> Roots {
        let certificate = |name: &&str| interim(&Template::new(*name), UnixTime::default()).unwrap();
        let pems: String = names.iter().map(|name| certificate(name).chain().pem().to_owned()).collect();
        Roots::from_pem(pems.as_bytes()).unwrap()
    }

    #[test]
    fn change_of_key_under_same_name_is_described() {
        let (before, written) = (roots(&["a"]), Some(roots(&["a", "b"])));
        let view = BundleView {
            selection: BundleSelection::Name("c".into()),
            path: "/d".into(),
            found: None,
            written,
            changed: None,
            read: None,
            bundles: None,
            problem: None,
            is_settled: true,
        };
        let of = "/d: 2 CA certificates of the ClusterTrustBundle c";
        assert_eq!(view.describe_change(Some(&before)), format!("{of}, added: CN=a; CN=b, removed: CN=a"));
        assert_eq!(view.describe_change(view.written.as_ref()), of);
    }
}
