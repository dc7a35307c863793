//! Users of the API, who authenticate with a bearer token or a client certificate.

use std::collections::BTreeMap;

use derive_more::Debug;
use perennial::{UnixTime, Validity};
use perennial_pki::{Chain, sha256};

use super::message::ApiRequest;

pub(crate) const MASTERS: &str = "system:masters";
pub(super) const NODES: &str = "system:nodes";
pub(super) const BOOTSTRAPPERS: &str = "system:bootstrappers";
pub(super) const AUTHENTICATED: &str = "system:authenticated";
const KUBEADM_BOOTSTRAPPERS: &str = "system:bootstrappers:kubeadm:default-node-token";
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// A user of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name of the user.
    pub username: String,
    /// Groups of the user, including `system:authenticated`.
    pub groups: Vec<String>,
    /// Further attributes (`extra`), such as the fingerprint of the client certificate.
    pub extra: BTreeMap<String, Vec<String>>,
    /// Validity of the user's client certificate; `None` for users without one. Checked at each request, since a
    /// connection may outlive the certificate.
    validity: Option<Validity>,
}

impl User {
    /// A user in these groups and in `system:authenticated`.
    pub fn new<S: Into<String>>(username: impl Into<String>, groups: impl IntoIterator<Item = S>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        Self { username: username.into(), groups, extra: BTreeMap::new(), validity: None }
    }

    /// The user `system:bootstrap:<id>`, who authenticates with the kubeadm bootstrap token `<id>.<secret>`.
    pub fn bootstrap(token_id: &str) -> Self {
        Self::new(format!("system:bootstrap:{token_id}"), [BOOTSTRAPPERS, KUBEADM_BOOTSTRAPPERS])
    }

    /// The user of a client certificate: the common name is the user's name, the organizations are the groups. `None`
    /// if the certificate cannot be read or has no common name.
    pub fn from_certificate(der: &[u8]) -> Option<Self> {
        let chain = Chain::from_der(vec![der.to_vec().into()]).ok()?;
        let certificate = chain.certificate();
        if certificate.common_name().is_empty() {
            return None;
        }
        let mut user = Self::new(certificate.common_name(), certificate.names.organizations());
        user.validity = Some(certificate.validity);
        user.extra.insert(CREDENTIAL_ID.into(), vec![format!("X509SHA256={:x}", certificate.fingerprint)]);
        Some(user)
    }

    pub(super) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|have| have == group)
    }

    /// The name of the node, if this user is a node; else `None`.
    pub(super) fn node(&self) -> Option<&str> {
        self.username.strip_prefix("system:node:").filter(|_| self.is_in(NODES))
    }

    fn is_valid(&self, now: UnixTime) -> bool {
        self.validity.is_none_or(|validity| validity.not_before() <= now && !validity.expired(now))
    }
}

/// Users, each under the SHA-256 of its bearer token. A lookup compares only hashes, so that its duration reveals
/// nothing about a token.
#[derive(Debug, Default)]
pub(super) struct Tokens(
    #[debug("{:?}", _0.values().map(|user| &user.username).collect::<Vec<_>>())] BTreeMap<[u8; 32], User>,
);

impl Tokens {
    pub(super) fn add(&mut self, token: &str, user: User) {
        // An empty token, as from an unset variable, would authenticate each request with an empty bearer token.
        if !token.is_empty() {
            self.0.insert(sha256(token.as_bytes()), user);
        }
    }

    /// The user who sent a request, by the rules of a cluster: the user of the client certificate if it is valid now,
    /// else the user of the bearer token. `None` if the request has no valid credential.
    pub(super) fn authenticate(&self, request: &ApiRequest, now: UnixTime) -> Option<User> {
        // TLS verified the certificate at the handshake; it may have expired on the open connection.
        if let Some(peer) = request.peer.as_ref().filter(|peer| peer.is_valid(now)) {
            return Some(User::clone(peer));
        }
        let (scheme, token) = request.authorization.as_ref()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        self.0.get(&sha256(token.trim().as_bytes())).cloned()
    }
}
