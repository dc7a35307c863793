//! [`Roots`]: the trusted CA certificates.

use std::slice;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::pem::Block;
use crate::{ChainError, PemError, chain, describe, names, pem, x509};

/// The usable CA certificates of a CA bundle, for verifying peers and issued chains. Cheap to clone.
#[derive(Clone, derive_more::Debug)]
#[debug("Roots {{ certificates: {} }}", store.len())]
pub struct Roots {
    store: Arc<RootCertStore>,
    pem: Arc<str>,
    skipped: Arc<[PemError]>,
}

/// Two `Roots` are equal if they contain the same usable certificates in the same order.
impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.store, &other.store) || self.pem == other.pem
    }
}

impl Eq for Roots {}

impl Roots {
    /// Reads the `CERTIFICATE` blocks of a CA bundle. Skips text and blocks of other kinds. Like Go, also skips damaged
    /// blocks, blocks with headers, and certificates that cannot be trust anchors; [`Roots::skipped`] lists the blocks
    /// that were skipped for one of these three reasons.
    ///
    /// # Errors
    /// [`ChainError`]: not PEM, more than 8 MiB, or not one usable certificate.
    pub fn from_pem(pem: &[u8]) -> Result<Self, ChainError> {
        let text = pem::read(pem, pem::MAX_BUNDLE)?;
        let (mut store, mut certificates, mut skipped) = (RootCertStore::empty(), Vec::new(), Vec::new());
        for block in text.blocks.iter().filter(|block| block.label == pem::CERTIFICATE) {
            match add(block, &mut store) {
                Ok(der) => certificates.push(der),
                Err(error) => skipped.push(error),
            }
        }
        match skipped.first() {
            Some(first) if certificates.is_empty() => {
                return Err(ChainError::NoUsableRoot { certificates: skipped.len(), first: first.clone() });
            }
            None if certificates.is_empty() => return Err(text.why_empty().map_or(ChainError::Empty, ChainError::Pem)),
            _ => skipped.extend(text.damage),
        }
        Ok(Self { store: Arc::new(store), pem: chain::encode(&certificates).into(), skipped: skipped.into() })
    }

    /// Reads the CA bundle of a publisher, and skips no damage: all blocks must be `CERTIFICATE` blocks without headers, and
    /// all certificates usable as trust anchors. Text around the blocks is allowed, as in `spec.trustBundle` of a
    /// Kubernetes ClusterTrustBundle. Keeps a repeated certificate once.
    ///
    /// # Errors
    /// [`ChainError`]: any damage, a block of another kind or with headers, an unusable certificate, no certificate, or
    /// more than 1 MiB.
    pub fn from_trust_bundle(pem: &[u8]) -> Result<Self, ChainError> {
        let text = pem::read(pem, pem::MAX_PAIR)?;
        if text.blocks.is_empty() {
            return Err(text.why_empty().map_or(ChainError::Empty, ChainError::Pem));
        }
        let (mut store, mut certificates) = (RootCertStore::empty(), Vec::new());
        for block in text.undamaged()? {
            let der = add(&block, &mut store)?;
            if !certificates.contains(&der) {
                certificates.push(der);
            }
        }
        Self::from_der(certificates)
    }

    /// Takes CA certificates in DER, such as those of the system, and leaves out certificates that cannot be trust
    /// anchors.
    ///
    /// # Errors
    /// [`ChainError::Empty`]: not one certificate can be used.
    pub fn from_der(certificates: impl IntoIterator<Item: AsRef<[u8]>>) -> Result<Self, ChainError> {
        let mut store = RootCertStore::empty();
        let certificates = certificates.into_iter().map(|der| CertificateDer::from(der.as_ref().to_vec()));
        let usable: Vec<_> = certificates.filter(|certificate| store.add(certificate.clone()).is_ok()).collect();
        if usable.is_empty() {
            return Err(ChainError::Empty);
        }
        Ok(Self { store: Arc::new(store), pem: chain::encode(&usable).into(), skipped: [].into() })
    }

    /// Joins several CA bundles: takes the usable certificates of all bundles, each certificate once.
    /// [`skipped`](Self::skipped) of the result is empty; that of each bundle lists the bundle's damage.
    ///
    /// # Errors
    /// [`ChainError::Empty`]: `all` is empty.
    pub fn joined<'a>(all: impl IntoIterator<Item = &'a Self>) -> Result<Self, ChainError> {
        let mut certificates = Vec::new();
        for der in all.into_iter().flat_map(|roots| CertificateDer::pem_slice_iter(roots.pem.as_bytes()).flatten()) {
            if !certificates.contains(&der) {
                certificates.push(der);
            }
        }
        Self::from_der(certificates)
    }

    /// The damaged or unusable blocks that [`from_pem`](Self::from_pem) skipped, each with its line. For warnings.
    pub fn skipped(&self) -> &[PemError] {
        &self.skipped
    }

    /// The certificates as trust anchors for rustls.
    pub fn store(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.store)
    }

    /// The subjects of the usable certificates, as `O=…, CN=…`.
    pub fn subjects(&self) -> impl Iterator<Item = String> {
        let certificates = CertificateDer::pem_slice_iter(self.pem.as_bytes()).flatten();
        certificates.filter_map(|der| x509::parse(&der).ok().map(|certificate| names::display(certificate.subject())))
    }

    /// The usable certificates as PEM, without text or other blocks.
    pub fn pem(&self) -> &str {
        &self.pem
    }
}

/// Adds the certificate in `block` to the trust anchors in `store`, and returns the certificate.
fn add(block: &Block<'_>, store: &mut RootCertStore) -> Result<CertificateDer<'static>, PemError> {
    block.require_certificate()?;
    let der = CertificateDer::from(block.der()?.to_vec());
    match store.add(der.clone()) {
        Ok(()) => Ok(der),
        Err(error) => {
            // webpki names fewer causes than the parser for a certificate that cannot be read.
            let unreadable = x509::parse(&der).err();
            Err(block.unusable(unreadable.unwrap_or_else(|| describe(&error, slice::from_ref(&der)))))
        }
    }
}
