//! The cryptography that *ring* lacks, by aws-lc-rs: generating RSA keys, and ECDSA on P-521.

use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer, alg_id};
use rustls::sign::{Signer, SigningKey, public_key_to_spki};
use rustls::{SignatureAlgorithm, SignatureScheme};
use webpki::aws_lc_rs::{ECDSA_P521_SHA256, ECDSA_P521_SHA384, ECDSA_P521_SHA512};

use crate::KeyAlgorithm;

/// Generates a key of a kind that *ring* does not generate, in PKCS#8 version 1. `None` for other kinds, and if the
/// operating system returns no random bytes.
pub(super) fn generate(algorithm: KeyAlgorithm) -> Option<Vec<u8>> {
    let size = match algorithm {
        KeyAlgorithm::Rsa => KeySize::Rsa3072,
        KeyAlgorithm::Rsa4096 => KeySize::Rsa4096,
        KeyAlgorithm::EcdsaP521 => {
            let key = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_ASN1_SIGNING).ok()?;
            return Some(key.to_pkcs8v1().ok()?.as_ref().to_vec());
        }
        _ => return None,
    };
    let key: Pkcs8V1Der<'_> = rsa::KeyPair::generate(size).ok()?.as_der().ok()?;
    Some(key.as_ref().to_vec())
}

/// Adds signatures on P-521 to those that `provider` verifies.
pub(super) fn with_p521(provider: CryptoProvider) -> CryptoProvider {
    let WebPkiSupportedAlgorithms { all, mapping } = provider.signature_verification_algorithms;
    // rustls wants lists that live as long as the process. They are made once.
    let all = Vec::leak([all, &[ECDSA_P521_SHA512, ECDSA_P521_SHA384, ECDSA_P521_SHA256]].concat());
    // TLS 1.3 signs with SHA-512 only (RFC 8446 §4.2.3); openssl signs certificates with SHA-256 unless told otherwise.
    let of_tls = (SignatureScheme::ECDSA_NISTP521_SHA512, &*Vec::leak(vec![ECDSA_P521_SHA512]));
    let mapping = Vec::leak([mapping, &[of_tls]].concat());
    CryptoProvider { signature_verification_algorithms: WebPkiSupportedAlgorithms { all, mapping }, ..provider }
}

/// Makes a signing key of a private key on P-521; `None` for other keys.
pub(super) fn load_p521(der: &PrivateKeyDer<'_>) -> Option<Arc<dyn SigningKey>> {
    let key = match der {
        PrivateKeyDer::Pkcs8(key) => EcdsaKeyPair::from_pkcs8(&ECDSA_P521_SHA512_ASN1_SIGNING, key.secret_pkcs8_der()),
        PrivateKeyDer::Sec1(key) => {
            EcdsaKeyPair::from_private_key_der(&ECDSA_P521_SHA512_ASN1_SIGNING, key.secret_sec1_der())
        }
        _ => return None,
    };
    Some(Arc::new(P521Key(Arc::new(key.ok()?))))
}

/// A private key on P-521. `Debug` shows the public key only.
#[derive(Clone, Debug)]
struct P521Key(Arc<EcdsaKeyPair>);

impl SigningKey for P521Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.scheme()).then(|| Box::new(self.clone()) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(public_key_to_spki(&alg_id::ECDSA_P521, self.0.public_key()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for P521Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        signature
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| rustls::Error::General("signing failed".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP521_SHA512
    }
}
