//! A certificate authority for tests, and TLS servers with its certificates.

use std::sync::Arc;
use std::time::Duration;

use perennial_kubernetes::cluster::Cluster;
use perennial_pki::{Chain, Credential, KeyAlgorithm, KeyPair, Roots, provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::EPOCH;

pub(crate) struct Ca {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub(crate) pem: String,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::from_pem(self.pem.as_bytes()).unwrap()
    }

    /// The API server with a certificate of this CA.
    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        Arc::new(Cluster::from_url("https://api.example:6443").unwrap().with_roots(self.roots()))
    }

    /// Signs a certificate for this public key with the DNS names `names`. The certificate is valid for `lifetime`
    /// seconds, from a minute before `EPOCH`. Its extended key usage is client auth if `client` is true, otherwise
    /// server auth.
    pub(crate) fn sign(&self, public_key_der: &[u8], names: &[&str], client: bool, lifetime: i64) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:a");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let usage = if client {
            rcgen::ExtendedKeyUsagePurpose::ClientAuth
        } else {
            rcgen::ExtendedKeyUsagePurpose::ServerAuth
        };
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.not_before = time::OffsetDateTime::from_unix_timestamp(EPOCH - 60).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(EPOCH - 60 + lifetime).unwrap();
        params.signed_by(&P256(public_key_der), &self.issuer).unwrap().pem()
    }

    pub(crate) fn credential(&self) -> Arc<Credential> {
        let key = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let pem = self.sign(key.public_key_der(), &[], true, 86_400);
        Arc::new(Credential::new(Chain::from_pem(pem.as_bytes()).unwrap(), key).unwrap())
    }
}

/// A P-256 public key in SubjectPublicKeyInfo DER. The last 65 bytes are the point.
struct P256<'a>(&'a [u8]);

impl rcgen::PublicKeyData for P256<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.0[self.0.len() - 65..]
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// The TLS configuration of a server with a certificate for `name` from `ca`. If `clients` is given, the server
/// requires a client certificate from this CA.
pub(crate) fn server_config(ca: &Ca, clients: Option<&Ca>, name: &str) -> Arc<ServerConfig> {
    server_config_for(rustls::ALL_VERSIONS, ca, clients, name)
}

/// The TLS configuration of a server that supports these TLS versions, with a certificate for `name` from `ca`. If
/// `clients` is given, the server requires a client certificate from this CA.
pub(crate) fn server_config_for(
    versions: &[&'static SupportedProtocolVersion],
    ca: &Ca,
    clients: Option<&Ca>,
    name: &str,
) -> Arc<ServerConfig> {
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = ca.sign(&rcgen::PublicKeyData::subject_public_key_info(&key), &[name], false, 86_400 * 365);
    server_config_with(versions, clients, &pem, &key)
}

/// The TLS configuration of a server that presents the certificate `pem`. If `clients` is given, the server requires a
/// client certificate from this CA.
pub(crate) fn server_config_with(
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<&Ca>,
    pem: &str,
    key: &rcgen::KeyPair,
) -> Arc<ServerConfig> {
    let builder =
        ServerConfig::builder_with_details(provider(), Arc::new(FixedTime)).with_protocol_versions(versions).unwrap();
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(clients.roots().store(), provider()).build().unwrap(),
        ),
        None => builder.with_no_client_auth(),
    };
    let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
struct FixedTime;

impl rustls::time_provider::TimeProvider for FixedTime {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(EPOCH as u64)))
    }
}
