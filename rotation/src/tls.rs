//! Resolvers for rustls that present the current credential of a rotation, with correct session resumption.
//!
//! A resumed session keeps the identity of its first handshake: after a rotation, a server identifies a client that
//! resumes a session by the client's *old* certificate. rustls resumes across certificates while the resolver is the
//! same. So a client takes [`ClientConfigs::current`] for each new connection, which resumes only sessions of the
//! current certificate; or it uses [`ClientCert`] in a configuration without resumption.
//!
//! For the certificate of a server, resumption is harmless: a client that resumes has verified the certificate of the
//! first handshake. To have every connection begin with the current certificate, turn tickets off. A server that
//! authenticates *clients* by certificates should turn tickets off as well (`ServerConfig::session_storage`,
//! `send_tls13_tickets`), or keep their lifetime short: a session can be resumed as long as the ticket lasts, even if
//! the client's certificate is revoked.

use std::sync::{Arc, Mutex, PoisonError};

use perennial::Fingerprint;
use perennial_pki::{Credential, Interim};
use rustls::SignatureScheme;
use rustls::client::{ClientConfig, ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::clock;
use crate::files::FileCredential;
use crate::handle::Handle;

/// Source of the credential that a resolver presents: a [`Handle`], a [`FileCredential`], or a closure.
#[derive(Clone, derive_more::Debug)]
#[debug("Source({:?})", _0().map(|held| held.chain().certificate().fingerprint))]
pub struct Source(Arc<dyn Fn() -> Option<Arc<Credential>> + Send + Sync>);

impl Source {
    /// Makes a source from a closure, which is called in each handshake and must not block.
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

impl From<Arc<FileCredential>> for Source {
    fn from(files: Arc<FileCredential>) -> Self {
        Self::new(move || Some(files.credential()))
    }
}

/// Certificate resolver of rustls clients: presents the current credential, if there is one, to servers that request a
/// certificate. Only for configurations without session resumption: see the [module](self).
#[derive(Clone, Debug)]
pub struct ClientCert(Source);

impl ClientCert {
    /// Makes a resolver that presents the credential of this source.
    pub fn new(source: impl Into<Source>) -> Self {
        Self(source.into())
    }
}

impl ResolvesClientCert for ClientCert {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key = self.0.credential()?.certified_key();
        // A server that accepts none of our key's schemes may accept a client without a certificate.
        key.key.choose_scheme(schemes).is_some().then_some(key)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Certificate resolver of rustls servers: presents the current credential in each handshake. Existing connections keep
/// the credential of their handshake.
#[derive(Clone, Debug)]
pub struct ServerCert {
    source: Source,
    interim: Option<Arc<Interim>>,
}

impl ServerCert {
    /// Makes a resolver that presents the credential of this source. Handshakes fail while the source has none.
    pub fn new(source: impl Into<Source>) -> Self {
        Self { source: source.into(), interim: None }
    }

    /// Serves an interim certificate until the first credential arrives, as kubelet serves a self-signed one. Verifying
    /// clients reject the interim certificate.
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

/// Makes a new client configuration of rustls for each credential, so that no session is resumed under another
/// credential.
#[derive(derive_more::Debug)]
pub struct ClientConfigs {
    source: Source,
    #[debug(skip)]
    like: ClientConfig,
    /// The latest configuration, with the fingerprint of the certificate that it presents (`None` if it presents none).
    /// `None` before the first configuration.
    #[debug(skip)]
    made: Mutex<Option<(Option<Fingerprint>, Arc<ClientConfig>)>>,
}

impl ClientConfigs {
    /// Makes configurations that differ from `like` only in the credential and the resumption of sessions.
    pub fn new(source: impl Into<Source>, like: ClientConfig) -> Self {
        Self { source: source.into(), like, made: Mutex::default() }
    }

    /// The configuration for a new connection. It presents the current credential, if there is one, and resumes only
    /// sessions of that credential. Returns the same configuration until the credential changes.
    pub fn current(&self) -> Arc<ClientConfig> {
        let credential = self.source.credential();
        let fingerprint = credential.as_ref().map(|held| held.chain().certificate().fingerprint);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some((of, config)) if *of == fingerprint => config.clone(),
            _ => {
                let mut config = self.like.clone();
                // Bound to this credential: with a resolver that follows rotations, rustls would resume sessions of the
                // old credential.
                let cert = ClientCert::new(Source::new(move || credential.clone()));
                config.client_auth_cert_resolver = Arc::new(cert);
                config.resumption = Resumption::default();
                let config = Arc::new(config);
                *made = Some((fingerprint, config.clone()));
                config
            }
        }
    }
}
