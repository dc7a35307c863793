//! Keys that never leave an HSM: here in SoftHSM, through PKCS#11. Run
//! `cargo run -p perennial-examples --example softhsm`, with softhsm2 installed.
//!
//! To copy: `Token` and `TokenKey`.

mod session;

use std::sync::{Arc, Mutex, PoisonError};
use std::{error::Error, time::Duration};

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::{mechanism::Mechanism, session::Session};
use perennial_dev::TestCluster;
use perennial_examples::{review, witness::Witness};
use perennial_pki::{ecdsa_signature, sha256};
use perennial_std::{ExternalKey, ExternalKeyError, KeyAlgorithm, KeySource, Memory, Roots, Rotator, Template};
use perennial_std::{rustls::SignatureScheme, tls::client_config};

/// SubjectPublicKeyInfo of a P-256 key (RFC 5480 §2), up to the point. The identifier of the curve begins at byte 13.
const P256: &[u8; 26] = b"0Y0\x13\x06\x07*\x86H\xce=\x02\x01\x06\x08*\x86H\xce=\x03\x01\x07\x03B\0";

/// A token with the keys of one certificate.
#[derive(Clone, Debug)]
struct Token(Arc<Mutex<Session>>);

#[derive(Debug)]
struct TokenKey {
    token: Token,
    private: ObjectHandle,
    public_key_der: Vec<u8>,
    reference: String,
}

impl KeySource for Token {
    fn make(&self, _: KeyAlgorithm, in_use: &[String]) -> Result<Arc<dyn ExternalKey>, ExternalKeyError> {
        let session = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let labels: Vec<_> = in_use.iter().map(|used| Attribute::Label(used.as_bytes().into())).collect();
        // The token contains nothing but keys of this certificate.
        for object in session.find_objects(&[])? {
            if !session.get_attributes(object, &[AttributeType::Label])?.iter().any(|label| labels.contains(label)) {
                session.destroy_object(object)?;
            }
        }
        let number = u64::from_be_bytes(session.generate_random_vec(8)?[..].try_into()?);
        let reference = format!("pkcs11:object={number:016x}");
        let label = Attribute::Label(reference.as_bytes().into());
        let public = [Attribute::Token(true), Attribute::EcParams(P256[13..23].into()), label.clone()];
        let private = [Attribute::Token(true), Attribute::Sensitive(true), Attribute::Extractable(false), label];
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
        drop(session);
        self.find(&reference)
    }

    fn find(&self, reference: &str) -> Result<Arc<dyn ExternalKey>, ExternalKeyError> {
        let session = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let object = |class| {
            let found = session.find_objects(&[Attribute::Class(class), Attribute::Label(reference.into())])?;
            found.first().copied().ok_or_else(|| ExternalKeyError::from("the token has no such key"))
        };
        let (private, public) = (object(ObjectClass::PRIVATE_KEY)?, object(ObjectClass::PUBLIC_KEY)?);
        let point = session.get_attributes(public, &[AttributeType::EcPoint])?.pop();
        let Some(Attribute::EcPoint(point)) = point else { return Err("the token has no point of this key".into()) };
        // The point is an OCTET STRING, whose header has two bytes.
        let public_key_der = [P256, point.get(2..).unwrap_or_default()].concat();
        Ok(Arc::new(TokenKey { token: self.clone(), private, public_key_der, reference: reference.into() }))
    }
}

impl ExternalKey for TokenKey {
    fn public_key_der(&self) -> Vec<u8> {
        self.public_key_der.clone()
    }

    fn reference(&self) -> String {
        self.reference.clone()
    }

    fn sign(&self, _: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, ExternalKeyError> {
        let session = self.token.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(ecdsa_signature(&session.sign(&Mechanism::Ecdsa, self.private, &sha256(message))?))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let token = Token(Arc::new(Mutex::new(session::open()?)));
    let (cluster, store) = (TestCluster::start()?, Memory::default());
    let rotator = || Rotator::new().template(Template::node("worker-1")).store(store.clone()).keys(token.clone());
    let handle = perennial_std::start(rotator().signer(cluster.node_signer()))?;
    handle.ready().within(Duration::from_secs(30))?;
    let mut witness = Witness::of([("client", &handle)]);
    let client = Arc::new(client_config(&handle, Roots::from_pem(cluster.ca_pem())?));
    while witness.goes_on() {
        witness.record(review::ask(cluster.url(), &client));
    }
    handle.shutdown().wait();
    // A second start finds the key in the token by the reference in the store.
    let stored = perennial_std::start(rotator())?.credential().ok_or("the store has no certificate")?;
    println!("in the token: {}\n{}", stored.key().reference().ok_or("the key is in memory")?, witness.verdict()?);
    Ok(())
}
