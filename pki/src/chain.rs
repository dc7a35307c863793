//! Certificate chains, and the facts of their first certificate.

use std::fmt;
use std::sync::Arc;

use perennial::{Certificate, Fingerprint, UnixTime, Validity, ValidityError};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;

use crate::names::{Names, common_name, organizations};
use crate::pem;
use crate::provider::sha256;

const LABEL: &str = "CERTIFICATE";
/// No sane chain is longer.
const MAX_CHAIN: usize = 16;

/// One or more certificates, leaf first. Cheap to clone.
#[derive(Clone)]
pub struct Chain {
    inner: Arc<Inner>,
}

struct Inner {
    pem: String,
    der: Vec<CertificateDer<'static>>,
    certificate: Arc<Certificate>,
    serial: String,
    issuer: String,
    public_key_der: Vec<u8>,
}

impl Chain {
    /// Reads the certificates in `text`; what else is there (keys, comments) is skipped.
    ///
    /// # Errors
    /// If there is none, or one that cannot be read.
    pub fn from_pem(text: &[u8]) -> Result<Self, ChainError> {
        let der = certificates(text, MAX_CHAIN)?;
        let leaf = der.first().ok_or(ChainError::Empty)?;
        let parsed = parse(leaf, 1)?;
        for (at, rest) in der.iter().enumerate().skip(1) {
            parse(rest, at + 1)?;
        }
        let pem: String = der.iter().map(|certificate| pem::encode(LABEL, certificate)).collect();
        let malformed = |why: String| ChainError::Malformed { number: 1, why };
        let time = |time: &x509_parser::time::ASN1Time| UnixTime::from_secs(time.timestamp());
        let validity = Validity::new(time(&parsed.validity.not_before), time(&parsed.validity.not_after));
        let mut names = Names::default();
        for extension in parsed.extensions() {
            if let ParsedExtension::SubjectAlternativeName(alternative) = extension.parsed_extension() {
                names.extend(alternative).map_err(|error| malformed(error.to_string()))?;
            }
        }
        let certificate = Certificate {
            validity: validity.map_err(|error: ValidityError| malformed(error.to_string()))?,
            fingerprint: Fingerprint(sha256(leaf)),
            common_name: common_name(parsed.subject()),
            organizations: organizations(parsed.subject()),
            dns_names: names.dns,
            ip_addresses: names.ips,
            provisional: false,
            chain: Arc::from(pem.as_bytes()),
        };
        let serial = parsed.raw_serial().iter().map(|byte| format!("{byte:02X}")).collect::<String>();
        let inner = Inner {
            certificate: Arc::new(certificate),
            serial: serial.trim_start_matches("00").into(),
            issuer: parsed.issuer().to_string(),
            public_key_der: parsed.public_key().raw.to_vec(),
            pem,
            der,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The facts of the first certificate.
    pub fn certificate(&self) -> &Arc<Certificate> {
        &self.inner.certificate
    }

    /// The chain as PEM: nothing but its certificates.
    pub fn pem(&self) -> &str {
        &self.inner.pem
    }

    /// The chain as DER, leaf first.
    pub fn der(&self) -> &[CertificateDer<'static>] {
        &self.inner.der
    }

    /// The first certificate's serial number: upper-case hexadecimal digits, as `openssl x509 -serial` prints them.
    pub fn serial(&self) -> &str {
        &self.inner.serial
    }

    /// The first certificate's issuer, as text.
    pub fn issuer(&self) -> &str {
        &self.inner.issuer
    }

    /// The first certificate's public key: SubjectPublicKeyInfo, DER.
    pub fn public_key_der(&self) -> &[u8] {
        &self.inner.public_key_der
    }

    pub(crate) fn leaf(&self) -> Result<X509Certificate<'_>, ChainError> {
        let leaf = self.inner.der.first().ok_or(ChainError::Empty)?;
        parse(leaf, 1)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("leaf", &self.inner.certificate)
            .field("serial", &self.inner.serial)
            .field("issuer", &self.inner.issuer)
            .field("certificates", &self.inner.der.len())
            .finish()
    }
}

impl PartialEq for Chain {
    fn eq(&self, other: &Self) -> bool {
        self.inner.der == other.inner.der
    }
}

impl Eq for Chain {}

/// Certificates of authorities: whom to trust. Cheap to clone.
#[derive(Clone)]
pub struct Roots {
    pem: Arc<str>,
    store: Arc<RootCertStore>,
}

impl Roots {
    /// Reads every certificate in `text` as an authority's.
    ///
    /// # Errors
    /// If there is none, or one that cannot be an authority's.
    pub fn from_pem(text: &[u8]) -> Result<Self, ChainError> {
        let der = certificates(text, usize::MAX)?;
        let mut store = RootCertStore::empty();
        for (at, certificate) in der.iter().enumerate() {
            let malformed = |why| ChainError::Malformed { number: at + 1, why };
            store.add(certificate.clone()).map_err(|error| malformed(error.to_string()))?;
        }
        if store.is_empty() {
            return Err(ChainError::Empty);
        }
        let pem: String = der.iter().map(|certificate| pem::encode(LABEL, certificate)).collect();
        Ok(Self { pem: pem.into(), store: Arc::new(store) })
    }

    /// For TLS.
    pub fn store(&self) -> Arc<RootCertStore> {
        self.store.clone()
    }

    /// The bundle as PEM: nothing but its certificates.
    pub fn pem(&self) -> &str {
        &self.pem
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({} certificates)", self.store.len())
    }
}

fn certificates(text: &[u8], most: usize) -> Result<Vec<CertificateDer<'static>>, ChainError> {
    if text.len() > pem::MAX_PEM {
        return Err(ChainError::TooLarge);
    }
    let blocks = pem::blocks(text).map_err(|error| ChainError::NotPem(error.to_string()))?;
    let certificates = blocks.into_iter().filter(|block| block.tag() == LABEL);
    let der: Vec<_> = certificates.map(|block| CertificateDer::from(block.into_contents())).collect();
    if der.len() > most { Err(ChainError::TooLarge) } else { Ok(der) }
}

fn parse<'a>(der: &'a CertificateDer<'_>, number: usize) -> Result<X509Certificate<'a>, ChainError> {
    let malformed = |why| ChainError::Malformed { number, why };
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(malformed("there is data after its end".into())),
        Err(error) => Err(malformed(error.to_string())),
    }
}

/// A chain that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChainError {
    /// There is no certificate.
    Empty,
    /// The text is damaged.
    NotPem(String),
    /// More than a megabyte, or more certificates than any chain has.
    TooLarge,
    /// One of the certificates cannot be read.
    Malformed {
        /// Which one, counted from 1.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there is no certificate (PEM block CERTIFICATE)"),
            Self::NotPem(why) => write!(f, "the PEM text is damaged: {why}"),
            Self::TooLarge => write!(f, "that is too large: at most {MAX_CHAIN} certificates and 1 MiB make a chain"),
            Self::Malformed { number, why } => write!(f, "certificate {number} cannot be read: {why}"),
        }
    }
}

impl std::error::Error for ChainError {}
