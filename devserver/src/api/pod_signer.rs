//! The signers of pod certificates: they issue, deny and fail requests as a test configures them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Template, UnixTime, Validity};
use perennial_pki::{
    Chain, KeyAlgorithm, KeyPair, KeyUsage, RequestFacts, Usage, certificate_request, read_request, read_request_der,
};

use super::controllers::condition;
use super::direct::ObjectError;
use super::object::Object;
use super::pod_request::{DEFAULT_LIFETIME, SHORTEST};
use super::resource::{Key, Resource};
use super::store::Stored;
use super::{Api, Options, rfc3339, signer};
use crate::authority::Authority;
use perennial_kubernetes::objects::{
    Condition, PodCertificateRequest, PodCertificateSpec, PodCertificateStatus, UNSUPPORTED_KEY_TYPE,
};

/// Behaviour of a signer of pod certificates. By default the signer issues each certificate at once, for all of
/// `maxExpirationSeconds`, with the SPIFFE ID of the service account, for clients and servers.
///
/// The server does not check the status that the signer writes, as a cluster does. So a signer can misbehave here in ways
/// that a cluster prevents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSigner {
    /// The decision of the signer about each request.
    pub decision: PodDecision,
    /// Longest lifetime of a certificate. A request with a smaller `maxExpirationSeconds` gets the smaller lifetime.
    pub lifetime: Duration,
    /// The hint when to replace a certificate (`beginRefreshAt`).
    pub refresh: RefreshHint,
    /// Time between the creation of a request and the decision of the signer.
    pub delay: Duration,
    /// The kinds of keys that the signer accepts. A request with another kind is denied for `UnsupportedKeyType`, with
    /// the first of these kinds as the suggestion.
    pub accepted_keys: Vec<KeyAlgorithm>,
    /// Common name of certificates; empty for none. In this field and those of the other names, the signer replaces
    /// `{namespace}`, `{pod}`, `{serviceAccount}` and `{node}`.
    pub common_name: String,
    /// DNS names of certificates.
    pub dns_names: Vec<String>,
    /// URIs of certificates.
    pub uris: Vec<String>,
}

impl Default for PodSigner {
    fn default() -> Self {
        Self {
            decision: PodDecision::Issue,
            lifetime: Duration::from_secs(91 * 86_400),
            refresh: RefreshHint::TwoThirds,
            delay: Duration::ZERO,
            accepted_keys: vec![
                KeyAlgorithm::EcdsaP256,
                KeyAlgorithm::EcdsaP384,
                KeyAlgorithm::EcdsaP521,
                KeyAlgorithm::Ed25519,
                KeyAlgorithm::Rsa,
            ],
            common_name: String::new(),
            dns_names: Vec::new(),
            uris: vec!["spiffe://cluster.local/ns/{namespace}/sa/{serviceAccount}".into()],
        }
    }
}

/// The decision of a [`PodSigner`] about requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PodDecision {
    /// Issues a certificate.
    #[default]
    Issue,
    /// Denies each request, with the reason and the message.
    Deny(String, String),
    /// Fails each request, with the reason and the message.
    Fail(String, String),
    /// Leaves each request pending.
    Ignore,
}

/// The hint of a [`PodSigner`] when to replace a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefreshHint {
    /// After two thirds of the lifetime.
    #[default]
    TwoThirds,
    /// This long after notBefore. A cluster allows no time that is less than ten minutes from notBefore or notAfter.
    After(Duration),
    /// This long before notBefore, which a cluster does not allow.
    Before(Duration),
    /// No hint, which a cluster does not allow.
    Absent,
}

/// A configured signer. Signs with the CA of the server if it has no CA of its own.
#[derive(Debug, Default)]
struct ActiveSigner {
    behaviour: PodSigner,
    authority: Option<Authority>,
}

/// The configured signers, by signer name.
#[derive(Debug, Default)]
pub(super) struct PodSigners(BTreeMap<String, ActiveSigner>);

impl Api {
    /// Sets the behaviour of the signer of pod certificates with this name. With
    /// [`Options::other_signers`](crate::Options::other_signers), names outside `kubernetes.io/` have a signer with the
    /// default behaviour until this call. Pending requests are decided by the new behaviour.
    pub fn set_pod_signer(&mut self, signer_name: &str, behaviour: PodSigner, now: UnixTime) {
        self.pod_signers.0.entry(signer_name.into()).or_default().behaviour = behaviour;
        let requests = self.store.iter(Resource::PodCertificateRequests);
        self.work.extend(requests.map(|stored| (now, stored.key.clone())));
        self.tick(now);
    }

    /// Gives the signer of pod certificates with this name a CA of its own, or another one: the signer signs with
    /// `authority` from now on. Writes the CAs of the signer to the ClusterTrustBundle
    /// `<signer name>:roots`, with `:` in place of `/` in the signer name: `authority`, and all that the signer had
    /// before. [`Api::put_trust_bundle`] removes the CAs that clients need no more.
    ///
    /// # Errors
    /// [`ObjectError`] if the bundle cannot be written, for example because the signer name is invalid. The signer keeps
    /// its CA then.
    pub fn rotate_pod_signer(
        &mut self,
        signer_name: &str,
        authority: Authority,
        now: UnixTime,
    ) -> Result<(), ObjectError> {
        let bundle = roots_name(signer_name);
        let before = self.store.get(&Key::new(Resource::ClusterTrustBundles, "", &bundle));
        let before = before.and_then(|stored| stored.object.plain()).map_or("", |plain| plain.text("spec.trustBundle"));
        let new = authority.certificate_pem();
        let pem = if before.contains(new.trim()) { before.to_owned() } else { [before, new].concat() };
        self.put_trust_bundle(&bundle, signer_name, &pem, now)?;
        self.pod_signers.0.entry(signer_name.into()).or_default().authority = Some(authority);
        Ok(())
    }

    /// Has the signer of a request decide about it, once its delay is over.
    pub(super) fn reconcile_pod_request(
        &mut self,
        stored: &Arc<Stored>,
        request: &PodCertificateRequest,
        now: UnixTime,
    ) {
        let spec = &request.spec;
        let configured = self.pod_signers.0.get(&spec.signer_name);
        let serves = self.options.other_signers && !signer::is_clusters_own(&spec.signer_name);
        if !request.status.conditions.is_empty() || configured.is_none() && !serves {
            return;
        }
        let behaviour = configured.map(|signer| signer.behaviour.clone()).unwrap_or_default();
        let due = stored.created.after(behaviour.delay);
        if now < due {
            return self.schedule(&stored.key, due);
        }
        // Cannot fail: requests were validated at their creation.
        let Ok(facts) = read_request_der(&spec.stub_pkcs10_request) else { return };
        let status = match &behaviour.decision {
            PodDecision::Ignore => return,
            _ if !behaviour.accepted_keys.iter().any(|accepted| accepted.admits(facts.key_algorithm)) => {
                let suggestion = behaviour.accepted_keys.first().map(|key| format!("; use {}", key_type(*key)));
                let message = format!(
                    "key type {} is not supported{}",
                    key_type(facts.key_algorithm),
                    suggestion.unwrap_or_default()
                );
                decided("Denied", UNSUPPORTED_KEY_TYPE, &message, now)
            }
            PodDecision::Deny(reason, message) => decided("Denied", reason, message, now),
            PodDecision::Fail(reason, message) => decided("Failed", reason, message, now),
            PodDecision::Issue => match self.issue_for_pod(&behaviour, request, facts, now) {
                Ok(chain) => issued(&chain, behaviour.refresh, now),
                Err(why) => decided("Failed", "SigningFailed", &why, now),
            },
        };
        let object = Object::PodRequest(Box::new(PodCertificateRequest { status, ..request.clone() }));
        self.store.replace(stored, object);
    }

    /// Issues the certificate for a request: the key is that of the CSR, the names are those of `behaviour`.
    fn issue_for_pod(
        &mut self,
        behaviour: &PodSigner,
        request: &PodCertificateRequest,
        facts: RequestFacts,
        now: UnixTime,
    ) -> Result<Chain, String> {
        let own = self.pod_signers.0.get(&request.spec.signer_name).and_then(|signer| signer.authority.as_ref());
        let authority = own.unwrap_or(&self.authority);
        let validity = validity(authority, behaviour, &request.spec, &self.options, now)?;
        let mut certified = names(behaviour, request)?;
        (certified.key_algorithm, certified.public_key_der) = (facts.key_algorithm, facts.public_key_der);
        let usages = [Usage::ClientAuth, Usage::ServerAuth];
        let random = &mut self.random;
        let chain = authority.certify(&certified, validity, &[KeyUsage::DigitalSignature], &usages, random);
        chain.map_err(|error| error.to_string())
    }
}

/// Name of the ClusterTrustBundle with the CAs of a signer.
fn roots_name(signer_name: &str) -> String {
    format!("{}:roots", signer_name.replace('/', ":"))
}

/// Validity of a certificate, at most as long as the request and the options allow. notBefore precedes `now` by two minutes at most: a
/// cluster allows less than five.
fn validity(
    authority: &Authority,
    behaviour: &PodSigner,
    spec: &PodCertificateSpec,
    options: &Options,
    now: UnixTime,
) -> Result<Validity, String> {
    let longest = u64::try_from(spec.max_expiration_seconds.unwrap_or(DEFAULT_LIFETIME)).unwrap_or_default();
    // A cluster allows no shorter lifetime.
    let of_server = options.signing_duration.max(Duration::from_secs(u64::from(SHORTEST.unsigned_abs())));
    let lifetime = behaviour.lifetime.min(Duration::from_secs(longest)).min(of_server);
    let backdate = options.backdate.unwrap_or(Duration::from_secs(120)).min(lifetime / 20);
    let validity = authority.period(now, lifetime.saturating_sub(backdate), Some(backdate));
    validity.map_err(|error| error.to_string())
}

/// The names of the certificate for `request`, in the form of a CSR. The key in that form is not used.
fn names(behaviour: &PodSigner, request: &PodCertificateRequest) -> Result<RequestFacts, String> {
    let PodCertificateSpec { pod_name, service_account_name, node_name, .. } = &request.spec;
    let fill = |text: &String| {
        text.replace("{namespace}", &request.metadata.namespace)
            .replace("{pod}", pod_name)
            .replace("{serviceAccount}", service_account_name)
            .replace("{node}", node_name)
    };
    let template = match fill(&behaviour.common_name) {
        name if name.is_empty() => Template::default(),
        name => Template::new(name),
    };
    let template =
        template.with_dns_names(behaviour.dns_names.iter().map(fill)).with_uris(behaviour.uris.iter().map(fill));
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).map_err(|error| error.to_string())?;
    let csr = certificate_request(&template, &key).map_err(|error| error.to_string())?;
    read_request(csr.pem.as_bytes()).map_err(|error| error.to_string())
}

/// The name of a kind of key in a `podCertificate` volume, such as `ECDSAP256`.
fn key_type(algorithm: KeyAlgorithm) -> String {
    match algorithm {
        KeyAlgorithm::Rsa => "RSA3072".into(),
        other => other.to_string().replace('-', "").to_uppercase(),
    }
}

/// A status with one condition and no certificate.
fn decided(kind: &str, reason: &str, message: &str, now: UnixTime) -> PodCertificateStatus {
    let condition = Condition { last_update_time: None, ..condition(kind, reason, message, now) };
    PodCertificateStatus { conditions: vec![condition], ..PodCertificateStatus::default() }
}

fn issued(chain: &Chain, refresh: RefreshHint, now: UnixTime) -> PodCertificateStatus {
    let validity = chain.certificate().validity;
    let (not_before, not_after) = (validity.not_before(), validity.not_after());
    let begin = match refresh {
        RefreshHint::TwoThirds => Some(not_before.after(not_after.since(not_before) * 2 / 3)),
        RefreshHint::After(after) => Some(not_before.after(after)),
        RefreshHint::Before(before) => Some(not_before.before(before)),
        RefreshHint::Absent => None,
    };
    PodCertificateStatus {
        certificate_chain: chain.pem(),
        not_before: Some(rfc3339(not_before)),
        begin_refresh_at: begin.map(rfc3339),
        not_after: Some(rfc3339(not_after)),
        ..decided("Issued", "Issued", "The signer has issued the certificate.", now)
    }
}
