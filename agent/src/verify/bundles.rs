//! Checks whether perennial could write the files of trust bundles.

use serde_json::{Value, json};

use super::Fault;
use crate::bundle_file::{BundleFile, BundleView, Problem};
use crate::certificates::{List, ListedBundle, Volumes};
use crate::cli::TrustBundle;
use crate::failure::Failure;
use crate::run::check_connection;

/// The verdict on the file of a trust bundle.
pub(super) struct BundleFinding {
    view: BundleView,
    faults: Vec<Fault>,
}

/// Checks the trust bundles of a list: the files that they name for their requests, and the files to write.
///
/// # Errors
/// [`Failure::Usage`] if a path cannot be used.
pub(super) fn of_list(list: &List) -> Result<Vec<BundleFinding>, Failure> {
    let volumes = Volumes::default();
    let finding = |listed: &ListedBundle| {
        let mut finding = BundleFinding::of(&BundleFile::listed(listed, &volumes)?);
        if let Err(why) = check_connection(listed) {
            let why = format!("could not read the bundles: {why}");
            finding.faults.insert(0, Fault { why, remedy: "mend this file, or name another one in the list".into() });
        }
        Ok(finding)
    };
    list.trust_bundles.iter().map(finding).collect()
}

/// Checks the files of these options.
///
/// # Errors
/// [`Failure::Usage`] if a path names no file.
pub(super) fn of_options(options: &[TrustBundle]) -> Result<Vec<BundleFinding>, Failure> {
    options.iter().map(|option| Ok(BundleFinding::of(&BundleFile::new(option)?))).collect()
}

impl BundleFinding {
    fn of(file: &BundleFile) -> Self {
        let fault = file.is_free().err().map(|error| {
            let Problem { why, remedy } = Problem::of_file(&error);
            Fault { why: format!("could not write the file: {why}"), remedy: remedy.into() }
        });
        Self { view: file.read(), faults: fault.into_iter().collect() }
    }

    /// The first fault, for stderr.
    pub(super) fn first_fault(&self) -> Option<String> {
        let Fault { why, remedy } = self.faults.first()?;
        Some(format!("trust bundle {} (perennial): {why}; {remedy}", self.view.path.display()))
    }

    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let BundleView { selection, path, changed, .. } = &self.view;
        let mut lines = vec![("bundle", selection.to_string())];
        if self.faults.is_empty() {
            let since = match changed {
                Some(at) => format!("which has {} since {at}", self.view.counted()),
                None => "which is not written yet".into(),
            };
            lines.push(("perennial", format!("could write {}, {since}", path.display())));
        }
        for Fault { why, remedy } in &self.faults {
            lines.extend([("perennial", why.clone()), ("  to do", remedy.clone())]);
        }
        lines
    }

    pub(super) fn to_json(&self) -> Value {
        let (signer, name) = self.view.signer_and_name();
        let good = self.faults.is_empty();
        json!({ "path": self.view.path, "signer": signer, "name": name, "good": good, "faults": self.faults })
    }
}
