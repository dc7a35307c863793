//! The state of a file of CA certificates, for the log, metrics, `/state` and the page.

use std::collections::BTreeSet;
use std::path::PathBuf;

use perennial::UnixTime;
use perennial_kubernetes::BundleSelection;
use perennial_pki::Roots;
use serde_json::{Value, json};

/// The state of a [`BundleFile`](super::BundleFile) at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BundleView {
    pub(crate) selection: BundleSelection,
    pub(crate) path: PathBuf,
    /// The CA certificates in the file; `None` before the first write of this process.
    pub(crate) written: Option<Roots>,
    /// Time at which the certificates became as they are; `None` before the first ones.
    pub(crate) changed: Option<UnixTime>,
    /// Time of the last answer or event of the API server.
    pub(crate) read: Option<UnixTime>,
    /// Number of selected bundles on the API server.
    pub(crate) bundles: usize,
    /// The reason why the file may not have the certificates of the API server; `None` if it has.
    pub(crate) problem: Option<String>,
    /// True once the bundles were read and written, or an attempt has failed.
    pub(crate) is_settled: bool,
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
    pub(crate) fn describe_change(&self, before: Option<&Roots>) -> String {
        let subjects = |roots: Option<&Roots>| roots.map_or_else(BTreeSet::new, |roots| roots.subjects().collect());
        let (now, before) = (subjects(self.written.as_ref()), subjects(before));
        let list = |what: &str, names: Vec<&String>| match names.as_slice() {
            [] => String::new(),
            names => format!(", {what}: {}", shortened(names)),
        };
        let added = list("added", now.difference(&before).collect());
        let removed = list("removed", before.difference(&now).collect());
        let (path, count) = (self.path.display(), self.count());
        let noun = if count == 1 { "certificate" } else { "certificates" };
        format!("{path}: {count} CA {noun} of {}{added}{removed}", self.selection)
    }

    /// Names and values for the page for people.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let time = |at: Option<UnixTime>| at.map_or_else(|| "not yet".to_owned(), |at| at.to_string());
        let subjects: Vec<String> = self.written.iter().flat_map(Roots::subjects).collect();
        let certificates = match subjects.len() {
            0 => "none yet".to_owned(),
            count => format!("{count}: {}", shortened(&subjects.iter().collect::<Vec<_>>())),
        };
        let mut lines = vec![
            ("file", self.path.display().to_string()),
            ("bundles", format!("{} ({} on the API server)", self.selection, self.bundles)),
            ("certificates", certificates),
            ("changed", time(self.changed)),
            ("read", time(self.read)),
        ];
        lines.extend(self.problem.clone().map(|problem| ("problem", problem)));
        lines
    }

    /// The fields for events and `/state`.
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
            "error": self.problem,
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
