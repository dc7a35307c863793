//! Rotated credentials in TLS of your own: resolvers for rustls, right about what outlives a rotation.
//!
//! A resumed session keeps the identity it began with: after a rotation, a client that resumes goes on being known by
//! its *old* certificate. rustls sees to that only when the resolver is another one. So a client takes a
//! [`ClientConfigs::current`] for each new connection, which resumes sessions of the certificate in use and no
//! others; or it uses [`ClientCert`] in a configuration of its own, without resumption.
//!
//! Servers need not mind: who resumes has seen the certificate that was in use then, and goes by that one as long as it
//! resumes; each new session begins with the certificate of that moment. To have every connection begin with it, turn
//! tickets off. A server that knows its *clients* by
//! certificates should mind: a resumed session is its client's as long as a ticket lasts, whatever became of the
//! certificate. Turn tickets off there (`ServerConfig::session_storage`, `send_tls13_tickets`), or keep them short.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use perennial_pki::{Credential, Interim};
use rustls::SignatureScheme;
use rustls::client::{ClientConfig, ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::clock;
use crate::handle::Handle;

/// Where the credential to use now comes from: a [`Handle`], files that somebody else keeps, or anything.
#[derive(Clone)]
pub struct Source(Arc<dyn Fn() -> Option<Arc<Credential>> + Send + Sync>);

impl Source {
    /// Asks this at each handshake: be quick.
    pub fn new(credential: impl Fn() -> Option<Arc<Credential>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(credential))
    }

    fn credential(&self) -> Option<Arc<Credential>> {
        (self.0)()
    }
}

impl From<&Handle> for Source {
    fn from(handle: &Handle) -> Self {
        let handle = handle.clone();
        Self::new(move || handle.credential())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.credential();
        f.debug_tuple("Source").field(&held.map(|held| held.chain().certificate().fingerprint)).finish()
    }
}

/// Presents the credential in use at each handshake that wants one; none while there is none. Only for a
/// configuration without resumption: see [above](self).
#[derive(Clone, Debug)]
pub struct ClientCert(Source);

impl ClientCert {
    /// Presents what this says.
    pub fn new(source: impl Into<Source>) -> Self {
        Self(source.into())
    }
}

impl ResolvesClientCert for ClientCert {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key = self.0.credential()?.certified_key();
        // A key that cannot sign as the server wants it is no answer, and no reason to break the handshake off.
        key.key.choose_scheme(schemes).is_some().then_some(key)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Serves with the credential in use. Existing connections go on with the one they began with.
#[derive(Clone, Debug)]
pub struct ServerCert {
    source: Source,
    interim: Option<Arc<Interim>>,
}

impl ServerCert {
    /// Serves with what this says. While there is none, handshakes fail.
    pub fn new(source: impl Into<Source>) -> Self {
        Self { source: source.into(), interim: None }
    }

    /// The same, and while there is none, with this. Nobody trusts it, but who does not verify yet can connect, as they
    /// can to a kubelet that has signed its own.
    #[must_use]
    pub fn with_interim(self, interim: Interim) -> Self {
        Self { interim: Some(Arc::new(interim)), ..self }
    }
}

impl ResolvesServerCert for ServerCert {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let interim = || Some(self.interim.as_ref()?.credential(clock::now().unix));
        self.source.credential().or_else(interim).map(|credential| credential.certified_key())
    }
}

/// Client configurations, one for each credential.
pub struct ClientConfigs {
    source: Source,
    like: ClientConfig,
    made: Mutex<Option<Made>>,
}

/// The last one that was made, and for which credential.
struct Made {
    of: Option<Arc<Credential>>,
    config: Arc<ClientConfig>,
}

impl ClientConfigs {
    /// Like this one, but for whom it presents and what it resumes.
    pub fn new(source: impl Into<Source>, like: ClientConfig) -> Self {
        Self { source: source.into(), like, made: Mutex::default() }
    }

    /// For a connection made now: it presents the credential in use, if there is one, and resumes sessions only of its own.
    /// The same one as before, as long as the credential is.
    pub fn current(&self) -> Arc<ClientConfig> {
        let credential = self.source.credential();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some(Made { of, config }) if same(of.as_deref(), credential.as_deref()) => config.clone(),
            _ => {
                let mut config = self.like.clone();
                config.client_auth_cert_resolver =
                    Arc::new(Fixed(credential.as_deref().map(Credential::certified_key)));
                config.resumption = Resumption::default();
                let config = Arc::new(config);
                *made = Some(Made { of: credential, config: config.clone() });
                config
            }
        }
    }
}

impl fmt::Debug for ClientConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfigs").field("source", &self.source).finish_non_exhaustive()
    }
}

fn same(one: Option<&Credential>, other: Option<&Credential>) -> bool {
    let fingerprint = |credential: &Credential| credential.chain().certificate().fingerprint;
    one.map(fingerprint) == other.map(fingerprint)
}

/// One credential, or none.
#[derive(Debug)]
struct Fixed(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Fixed {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone().filter(|key| key.key.choose_scheme(schemes).is_some())
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}
