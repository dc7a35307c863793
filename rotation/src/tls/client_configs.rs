//! [`ClientConfigs`]: a configuration for each credential, with session resumption.

use std::sync::{Arc, Mutex, PoisonError};

use perennial_pki::{Credential, Roots};
use rustls::client::{ClientConfig, Resumption};

use super::{ClientCert, ServerVerifier, Source, client};
use crate::RootsSource;

/// Client configurations of rustls that resume sessions, for programs that choose a configuration for each connection.
/// There is one configuration for each credential and each set of CAs, so that no session outlives the certificates
/// that it was verified with. A program that has to set one configuration for all connections uses
/// [`client_config`](super::client_config).
#[derive(derive_more::Debug)]
pub struct ClientConfigs {
    source: Source,
    verifier: ServerVerifier,
    #[debug(skip)]
    like: ClientConfig,
    /// The latest configuration; `None` before the first one.
    #[debug(skip)]
    latest: Mutex<Option<Made>>,
}

/// A configuration, with the credential and the CAs that it was made for.
struct Made {
    /// The credential that the configuration presents; `None` if it presents none.
    credential: Option<Arc<Credential>>,
    /// The CAs that the configuration was made for; `None` if the source had none yet.
    roots: Option<Roots>,
    config: Arc<ClientConfig>,
}

impl ClientConfigs {
    /// Makes configurations that present the credential of `source`, and accept servers with a certificate of one of
    /// the CAs of `roots`.
    pub fn new(source: impl Into<Source>, roots: impl RootsSource + 'static) -> Self {
        let (source, verifier) = (source.into(), ServerVerifier::new(roots));
        let like = client(source.clone(), verifier.clone());
        Self { source, verifier, like, latest: Mutex::default() }
    }

    /// Changes further fields of all configurations, such as `alpn_protocols`. A change of `client_auth_cert_resolver`
    /// or of `resumption` has no effect, since each configuration gets a resolver and a session cache of its own.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut ClientConfig)) -> Self {
        change(&mut self.like);
        self
    }

    /// The configuration for a new connection. It presents the current credential, if there is one, and resumes only
    /// sessions of that credential and the current CAs. Returns the same configuration until the credential or the CAs
    /// change.
    pub fn current(&self) -> Arc<ClientConfig> {
        let credential = self.source.credential();
        // The verifier of all configurations remembers these CAs, in case the source fails during a handshake.
        let roots = self.verifier.roots().ok();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*latest {
            Some(made) if made.credential == credential && made.roots == roots => made.config.clone(),
            _ => {
                let config = Arc::new(self.bound_to(credential.clone()));
                *latest = Some(Made { credential, roots, config: config.clone() });
                config
            }
        }
    }

    /// Makes a configuration that presents this credential for ever. If its resolver followed rotations, rustls would
    /// resume sessions of the old credential after a rotation.
    fn bound_to(&self, credential: Option<Arc<Credential>>) -> ClientConfig {
        let mut config = self.like.clone();
        config.client_auth_cert_resolver = Arc::new(ClientCert::new(Source::new(move || credential.clone())));
        config.resumption = Resumption::default();
        config
    }
}
