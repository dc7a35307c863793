//! Resolvers for rustls: present the current credential in each handshake.

use std::sync::Arc;

use perennial_pki::{Credential, Interim};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::FileCredential;
use crate::clock;
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

    pub(super) fn credential(&self) -> Option<Arc<Credential>> {
        (self.0)()
    }
}

impl From<&Handle> for Source {
    fn from(handle: &Handle) -> Self {
        let handle = handle.clone();
        Self::new(move || handle.credential())
    }
}

impl From<&FileCredential> for Source {
    fn from(files: &FileCredential) -> Self {
        let files = files.clone();
        Self::new(move || Some(files.credential()))
    }
}

/// Certificate resolver of rustls clients: presents the current credential, if there is one, to servers that request a
/// certificate. Only for configurations without session resumption: see the [module](super).
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
