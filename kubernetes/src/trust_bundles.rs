//! The CA certificates that a cluster publishes: [`TrustBundles`] and [`BundleWatch`].

mod held;
mod label_selector;

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial::{Now, UnixTime, printable};
use perennial_pki::Roots;
use perennial_rotation::{Conversation, IdentitySource, IoEvent, IoRequest, NotYet, RootsSource};

use crate::client::{Limits, ListWatch, Selected};
use crate::cluster::Cluster;
use crate::names;
use held::Held;

/// The advice for a server that does not serve ClusterTrustBundles.
const ABSENT: &str = "; the server does not serve ClusterTrustBundles: they need Kubernetes 1.27 or newer, with \
                      --feature-gates=ClusterTrustBundle=true and \
                      --runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true (v1alpha1 before 1.33) on \
                      kube-apiserver";

/// The ClusterTrustBundle objects to read: one by its name, or those of a signer, as in the volume source
/// `clusterTrustBundle` of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BundleSelection {
    /// The ClusterTrustBundle of this name.
    Name(String),
    /// All ClusterTrustBundles of a signer.
    Signer {
        /// The name of the signer, as in `spec.signerName`.
        name: String,
        /// A label selector, as in `kubectl get -l`. Empty for all bundles of the signer. (In a volume source of
        /// Kubernetes, an absent selector selects no bundle, and an empty one all.)
        labels: String,
    },
}

impl BundleSelection {
    /// Selects all ClusterTrustBundles of a signer.
    pub fn of_signer(name: impl Into<String>) -> Self {
        Self::Signer { name: name.into(), labels: String::new() }
    }

    /// Checks the name of the bundle, or the name of the signer and the label selector, by the rules of the API. (A server
    /// refuses a malformed selector at each request, and selects nothing for a name that no bundle can have.)
    ///
    /// # Errors
    /// The first rule that the selection breaks, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Name(name) if is_bundle_name(name) => Ok(()),
            Self::Name(name) => Err(format!(
                "`{}` is no name of a ClusterTrustBundle: expected a DNS subdomain such as company-cas or, for a bundle \
                 of a signer, one after the signer's name, such as example.com:mesh:a",
                printable(name)
            )),
            Self::Signer { name, labels } => {
                names::signer_name(name)?;
                label_selector::check(labels)
            }
        }
    }

    fn selected(&self) -> Selected {
        let (fields, labels) = match self {
            Self::Name(name) => (format!("metadata.name={}", escaped(name)), String::new()),
            Self::Signer { name, labels } => (format!("spec.signerName={}", escaped(name)), labels.clone()),
        };
        Selected {
            group: "certificates.k8s.io",
            versions: &["v1", "v1beta1", "v1alpha1"],
            resource: "clustertrustbundles",
            fields,
            labels,
            absent: ABSENT,
        }
    }

    /// True for an object that the server should have selected.
    fn includes(&self, object_name: &str, signer_name: &str) -> bool {
        match self {
            Self::Name(name) => name == object_name,
            Self::Signer { name, .. } => name == signer_name,
        }
    }
}

/// True if a ClusterTrustBundle can have this name (`ValidateClusterTrustBundleName` in
/// `pkg/apis/certificates/validation/validation.go`). The name of a signer's bundle has a colon for the signer's slash.
fn is_bundle_name(name: &str) -> bool {
    match name.split(':').collect::<Vec<_>>()[..] {
        [name] => names::is_subdomain(name),
        [domain, path, name] => names::signer_name(&format!("{domain}/{path}")).is_ok() && names::is_subdomain(name),
        _ => false,
    }
}

/// Escapes a value in a field selector (`EscapeValue` of apimachinery).
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

/// Shows the selection as a noun phrase, such as `the ClusterTrustBundles of signer example.com/mesh`.
impl fmt::Display for BundleSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "the ClusterTrustBundle {}", printable(name)),
            Self::Signer { name, labels } if labels.is_empty() => {
                write!(f, "the ClusterTrustBundles of signer {}", printable(name))
            }
            Self::Signer { name, labels } => {
                write!(f, "the ClusterTrustBundles of signer {} with labels {}", printable(name), printable(labels))
            }
        }
    }
}

/// Source of CAs: the ClusterTrustBundles of a cluster, as a [`BundleWatch`] has read them last. Clones share the CAs.
///
/// The certificates of all selected bundles are joined, each once, and sorted by their DER: equal bundles give equal
/// [`Roots`] on each node and after each restart, however the certificates are divided among the bundles. (kubelet
/// shuffles them once per start.)
///
/// # When CAs are removed
///
/// A certificate that a bundle does not contain any more is not trusted any more, since its removal is the only way to
/// withdraw trust from a CA; so are all certificates of a bundle that is deleted while others are left. Two cases change
/// nothing but [`BundleState::problem`], so that a mistake at one place does not cut off all nodes:
///
/// - A bundle with damage, with a block other than `CERTIFICATE`, or without any certificate is disregarded as a whole.
///   The CAs that this bundle contained before stay trusted.
/// - If no selected bundle is left, the CAs read last stay trusted. To withdraw trust from a signer, stop using its
///   bundles, or let them contain another CA.
///
/// ```
/// use std::sync::Arc;
/// use perennial_kubernetes::client::Limits;
/// use perennial_kubernetes::{BundleSelection, TrustBundles};
/// # use perennial_kubernetes::cluster::Cluster;
/// # use perennial_rotation::Identity;
///
/// # fn example(cluster: Arc<Cluster>, identity: Identity) {
/// let bundles = TrustBundles::new(BundleSelection::of_signer("example.com/mesh"));
/// let watch = bundles.watch(cluster, Arc::new(identity), Limits::default(), 7);
/// // On a thread: `perennial_std::drive(watch, &cancel, |_| {})`. Verifiers take `bundles` as their source of CAs.
/// # }
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("TrustBundles({}, {:?})", self.selection(), self.state())]
pub struct TrustBundles(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    selection: BundleSelection,
    held: Mutex<Held>,
}

/// The state of [`TrustBundles`] at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BundleState {
    /// The CAs to trust; `None` before the first good bundle was read.
    pub roots: Option<Roots>,
    /// The time at which `roots` became as they are; `None` without `roots`.
    pub changed: Option<UnixTime>,
    /// The time of the last answer or event of the server; `None` before the first list.
    pub read: Option<UnixTime>,
    /// The number of selected bundles on the server when they were read last.
    pub bundles: usize,
    /// True if a selected bundle has had no good content since this source was made. `roots` then lacks the CAs of that
    /// bundle, which an earlier process may have trusted.
    pub is_partial: bool,
    /// The reason why `roots` may not be those of the server: the server cannot be read, no bundle is left, or a bundle
    /// is damaged. `None` if the CAs are current.
    pub problem: Option<String>,
}

impl TrustBundles {
    /// Makes a source that has no CAs before a [`watch`](Self::watch) has read the selected bundles.
    pub fn new(selection: BundleSelection) -> Self {
        Self(Arc::new(Shared { selection, held: Mutex::default() }))
    }

    /// The selection of bundles.
    pub fn selection(&self) -> &BundleSelection {
        &self.0.selection
    }

    /// The present CAs, and the problem if there is one.
    pub fn state(&self) -> BundleState {
        self.held().state().clone()
    }

    /// Returns the conversation that reads the bundles of `cluster`, and keeps this source current while it is driven.
    /// Each list authenticates with the identity that `identity` returns at that time. Of `limits`, only
    /// [`Limits::connect`] and [`Limits::answer`] apply. `seed` determines the pauses: nodes of a fleet with different
    /// seeds do not retry at the same time.
    pub fn watch(
        &self,
        cluster: Arc<Cluster>,
        identity: Arc<dyn IdentitySource>,
        limits: Limits,
        seed: u64,
    ) -> BundleWatch {
        let objects = ListWatch::new(self.selection().selected(), cluster, identity, limits, seed);
        BundleWatch { objects, bundles: self.clone() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RootsSource for TrustBundles {
    fn roots(&self) -> Result<Roots, NotYet> {
        let held = self.held();
        let BundleState { roots, problem, .. } = held.state();
        roots.clone().ok_or_else(|| match problem {
            Some(problem) => NotYet::new(format!("no CA from {}: {problem}", self.selection())),
            None => NotYet::new(format!("no CA from {} yet: the API server has not answered so far", self.selection())),
        })
    }

    fn origin(&self) -> String {
        let held = self.held();
        let BundleState { changed, read, problem, .. } = held.state();
        let at = match (problem, changed, read) {
            // With a problem, the CAs may be older than the last answer.
            (Some(_), Some(changed), _) => format!(", unchanged since {changed}"),
            (None, _, Some(read)) => format!(", read at {read}"),
            _ => String::new(),
        };
        format!("{}{at}", self.selection())
    }
}

/// A conversation that keeps [`TrustBundles`] current: it lists the selected bundles, and watches them for changes. Ends
/// only when it is dropped.
///
/// Tries the API versions v1, v1beta1 and v1alpha1. A watch lasts five to ten minutes; a list follows each. After an error
/// it retries with a backoff of up to 30 seconds; after an error that only a person can mend (no permission, or a server
/// without ClusterTrustBundles), once in one to two minutes.
#[derive(Debug)]
pub struct BundleWatch {
    objects: ListWatch,
    bundles: TrustBundles,
}

impl BundleWatch {
    fn advance(&mut self, now: Now) {
        while let Some(change) = self.objects.change(now) {
            self.bundles.held().apply(change, self.bundles.selection(), now.unix);
        }
    }
}

impl Conversation for BundleWatch {
    type Outcome = Infallible;

    fn handle(&mut self, input: IoEvent<'_>, now: Now) {
        self.objects.handle(input, now);
        self.advance(now);
    }

    fn poll(&mut self, now: Now) -> IoRequest<Infallible> {
        self.advance(now);
        self.objects.step(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_that_no_server_can_answer_is_refused() {
        for name in ["company-cas", "a.b", "example.com:mesh:a", "example.com:shop.issuer:a.b"] {
            assert_eq!(BundleSelection::Name(name.into()).check(), Ok(()), "{name}");
        }
        for name in ["", "Company", "a b", "a:b", "mesh:a:b", "example.com:mesh:", "example.com:mesh:a:b"] {
            let error = BundleSelection::Name(name.into()).check().unwrap_err();
            assert!(error.contains("is no name of a ClusterTrustBundle"), "{name}: {error}");
        }
        for (signer, labels, why) in [
            ("example.com/mesh", "live,tier in (a, b)", None),
            ("mesh", "live", Some("the signer name `mesh`")),
            ("example.com/mesh", "tier in a", Some("unexpected `a`")),
        ] {
            let checked = BundleSelection::Signer { name: signer.into(), labels: labels.into() }.check();
            let error = checked.err().unwrap_or_default();
            assert!(why.map_or(error.is_empty(), |why: &str| error.contains(why)), "{signer} {labels}: {error}");
        }
    }
}
