//! A CA in the process of the test.

use std::sync::Arc;

use perennial::{Template, Validity};
use perennial_pki::{
    Chain, Credential, Issuer, KeyAlgorithm, KeyPair, Roots, Terms, Usage, certificate_request, read_request,
    self_signed,
};

#[derive(Debug)]
pub(crate) struct Authority(Issuer);

impl Authority {
    /// Makes a CA whose own certificate has this validity.
    pub(crate) fn new(validity: Validity) -> Self {
        let key = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let chain = self_signed("CA", &key, &[1], validity).unwrap();
        Self(Issuer::new(Credential::new(chain, key).unwrap()).unwrap())
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::from_pem(self.0.credential().chain().pem().as_bytes()).unwrap()
    }

    /// Issues a certificate for clients and servers, with these names, for this public key.
    pub(crate) fn issue(&self, names: &Template, public_key_der: &[u8], validity: Validity) -> Chain {
        // The issuer takes the names from a CSR, which only the owner of its key can make.
        let stub = certificate_request(names, &KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap()).unwrap();
        let mut facts = read_request(stub.pem.as_bytes()).unwrap();
        facts.public_key_der = public_key_der.to_vec();
        let extended_key_usages = &[Usage::ClientAuth, Usage::ServerAuth];
        self.0.issue(&facts, &Terms { serial: &[7], validity, key_usages: &[], extended_key_usages }).unwrap()
    }
}
