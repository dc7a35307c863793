//! The selected ClusterTrustBundles as they were read last, and the CAs that follow from them.

use std::collections::{BTreeMap, BTreeSet};

use perennial::{UnixTime, printable};
use perennial_pki::Roots;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;

use super::{BundleSelection, BundleState};
use crate::client::Change;

/// The most bundles of a selection. More are a mistake in the selection.
const MOST_BUNDLES: usize = 1000;
/// The most bytes of certificates, as PEM, in all selected bundles: as many as the answer to a list may have.
const MOST_BYTES: usize = 4 << 20;

/// The selected bundles, and the state that follows from them.
#[derive(Debug, Default)]
pub(super) struct Held {
    bundles: BTreeMap<String, Bundle>,
    /// True if the selection has more than [`MOST_BUNDLES`], of which some are left out.
    has_more: bool,
    /// Why the bundles cannot be read, or their changes cannot be watched; `None` if they can.
    failure: Option<String>,
    state: BundleState,
}

/// One selected bundle.
#[derive(Debug, Default, PartialEq, Eq)]
struct Bundle {
    /// The CAs of the last good content; `None` if no content was good.
    good: Option<Roots>,
    /// The problem with the present content; `None` if it is good.
    problem: Option<String>,
}

/// A ClusterTrustBundle; only the fields that are needed here.
#[derive(Deserialize)]
struct ClusterTrustBundle {
    spec: ClusterTrustBundleSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterTrustBundleSpec {
    #[serde(default)]
    signer_name: String,
    #[serde(default)]
    trust_bundle: String,
}

impl Held {
    pub(super) const fn state(&self) -> &BundleState {
        &self.state
    }

    /// Applies a change that was received at `now`.
    pub(super) fn apply(&mut self, change: Change, selection: &BundleSelection, now: UnixTime) {
        if !matches!(change, Change::Failed(_)) {
            self.state.read = Some(now);
        }
        match change {
            Change::Current => self.failure = None,
            Change::Failed(why) => self.failure = Some(why),
            Change::Listed(objects) => {
                let names: BTreeSet<&str> = objects.iter().map(|(name, _)| name.as_str()).collect();
                self.has_more = false;
                self.bundles.retain(|name, _| names.contains(name.as_str()));
                objects.iter().for_each(|(name, object)| self.set(name, object.get(), selection));
                self.join(now);
            }
            Change::Set(name, object) => {
                self.set(&name, object.get(), selection);
                self.join(now);
            }
            Change::Deleted(name) => {
                self.bundles.remove(&name);
                self.join(now);
            }
        }
        self.state.bundles = self.bundles.len();
        self.state.is_partial = self.has_more || self.bundles.values().any(|bundle| bundle.good.is_none());
        self.state.problem = self.problem();
    }

    /// Takes the present content of the bundle `name`. If that content cannot be used, the CAs before it stay trusted.
    fn set(&mut self, name: &str, object: &str, selection: &BundleSelection) {
        let read = match serde_json::from_str::<ClusterTrustBundle>(object) {
            Ok(object) if !selection.includes(name, &object.spec.signer_name) => {
                // A server that disregards the selection must not choose the CAs.
                self.bundles.remove(name);
                return;
            }
            Ok(object) => Roots::from_trust_bundle(object.spec.trust_bundle.as_bytes()).map_err(|why| why.to_string()),
            Err(error) => Err(format!("it cannot be read: {error}")),
        };
        let is_new = !self.bundles.contains_key(name);
        let others = self.bundles.iter().filter(|(other, _)| *other != name);
        let others: usize = others.filter_map(|(_, bundle)| bundle.good.as_ref()).map(|good| good.pem().len()).sum();
        let read = read.and_then(|roots| match others + roots.pem().len() {
            0..=MOST_BYTES => Ok(roots),
            _ => Err(format!("the bundles have more than {} MiB of certificates", MOST_BYTES >> 20)),
        });
        if is_new && self.bundles.len() >= MOST_BUNDLES {
            self.has_more = true;
            return;
        }
        let bundle = self.bundles.entry(name.to_owned()).or_default();
        match read {
            Ok(roots) => *bundle = Bundle { good: Some(roots), problem: None },
            Err(why) => bundle.problem = Some(why),
        }
    }

    /// Joins the CAs of all bundles. If the bundles have no CA, the CAs of the state stay as they are.
    fn join(&mut self, now: UnixTime) {
        let all = self.bundles.values().filter_map(|bundle| bundle.good.as_ref());
        let all = all.flat_map(|roots| CertificateDer::pem_slice_iter(roots.pem().as_bytes()).flatten());
        let sorted: BTreeSet<Vec<u8>> = all.map(|der| der.to_vec()).collect();
        let Ok(roots) = Roots::from_der(sorted) else { return };
        if self.state.roots.as_ref() != Some(&roots) {
            (self.state.roots, self.state.changed) = (Some(roots), Some(now));
        }
    }

    /// The reason why the CAs may not be those of the server.
    fn problem(&self) -> Option<String> {
        let stay = if self.state.roots.is_some() { "; the CAs read before stay trusted" } else { "" };
        if let Some(failure) = &self.failure {
            return Some(format!("{failure}{stay}"));
        }
        if self.bundles.is_empty() {
            return self.state.read.map(|_| format!("the server has no such bundle{stay}"));
        }
        if self.has_more {
            return Some(format!(
                "more than {MOST_BUNDLES} bundles are selected, and only {MOST_BUNDLES} are used; select fewer"
            ));
        }
        let mut bad = self.bundles.iter().filter_map(|(name, bundle)| Some((name, bundle, bundle.problem.as_ref()?)));
        let (name, bundle, why) = bad.next()?;
        let none_is_good = self.bundles.values().all(|bundle| bundle.good.is_none());
        let stay = match bundle.good {
            Some(_) => "; the CAs that it contained before stay trusted",
            None if none_is_good => stay,
            None => "",
        };
        let more = match bad.count() {
            0 => String::new(),
            more => format!("; {} bundles are disregarded in all", more + 1),
        };
        Some(format!("the bundle {} is disregarded: {}{stay}{more}", printable(name), printable(why)))
    }
}
