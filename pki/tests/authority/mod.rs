//! [`Authority`]: a CA that issues the certificates of these tests, made with rcgen.
#![allow(dead_code, unreachable_pub)]

use perennial_pki::KeyPair;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData,
    SignatureAlgorithm,
};
use time::OffsetDateTime;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The notBefore of the test certificates: 2026-01-01T00:00:00Z.
pub const NOT_BEFORE: i64 = 1_767_225_600;
/// The notAfter of the test certificates, unless a test adjusts it: 2026-01-01T01:00:00Z.
pub const NOT_AFTER: i64 = NOT_BEFORE + 3600;

pub struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    /// The CA's own certificate as PEM.
    pub pem: String,
}

impl Authority {
    pub fn root(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = ca_params(name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn intermediate(&self, name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = ca_params(name);
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Issues a client certificate for `key`, valid for one hour. `adjust` may change the parameters of the certificate
    /// first.
    pub fn issue(&self, key: &KeyPair, adjust: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        params.not_before = at(NOT_BEFORE);
        params.not_after = at(NOT_AFTER);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        adjust(&mut params);
        params.signed_by(&PublicKey::of(key), &self.issuer).unwrap().pem()
    }
}

pub fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = at(NOT_BEFORE - 3600);
    params.not_after = at(NOT_AFTER + 3600);
    params
}

struct PublicKey(Vec<u8>, &'static SignatureAlgorithm);

impl PublicKey {
    fn of(key: &KeyPair) -> Self {
        use perennial_pki::KeyAlgorithm;
        let (_, info) = SubjectPublicKeyInfo::from_der(key.public_key_der()).unwrap();
        let algorithm = match key.algorithm() {
            KeyAlgorithm::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyAlgorithm::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyAlgorithm::Ed25519 => &rcgen::PKCS_ED25519,
            KeyAlgorithm::Rsa => &rcgen::PKCS_RSA_SHA256,
            other => panic!("{other} is new"),
        };
        Self(info.subject_public_key.data.to_vec(), algorithm)
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.1
    }
}
