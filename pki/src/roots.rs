//! The CA certificates to trust.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;

use crate::{ChainError, chain};

/// CA certificates: what a CA bundle holds. Cheap to clone.
#[derive(Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    pem: Arc<str>,
}

impl Roots {
    /// Reads the `CERTIFICATE` blocks of a CA bundle. Text, blocks of other kinds, and certificates no
    /// chain can be verified with are skipped, as Go and rustls do it.
    ///
    /// # Errors
    /// [`ChainError`]: not PEM, more than 1 MiB, or not one usable certificate.
    pub fn from_pem(pem: &[u8]) -> Result<Self, ChainError> {
        let mut certificates = chain::certificates(pem)?;
        let found = certificates.len();
        if found == 0 {
            return Err(ChainError::Empty);
        }
        let mut store = RootCertStore::empty();
        certificates.retain(|certificate| store.add(certificate.clone()).is_ok());
        if store.is_empty() {
            return Err(ChainError::NoUsableRoot { certificates: found });
        }
        Ok(Self { store: Arc::new(store), pem: chain::encode(&certificates).into() })
    }

    /// For rustls.
    pub fn store(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.store)
    }

    /// The usable certificates, and nothing else, as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots").field("certificates", &self.store.len()).finish()
    }
}
