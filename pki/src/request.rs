//! [`certificate_request`]: writes a CSR (PKCS#10, RFC 2986).

use perennial::{Template, TemplateError};
use yasna::{DERWriter, Tag, construct_der};

use crate::key::CURVES;
use crate::{AlternativeNames, KeyPair, PemError, pem, write};

/// A signed CSR (PKCS#10), in PEM and in DER.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateRequest {
    /// The CSR as one PEM block `CERTIFICATE REQUEST`.
    pub pem: String,
    /// The CSR in DER.
    pub der: Vec<u8>,
}

/// Makes a CSR for the names of `template`, signed with `key`.
///
/// The layout is that of Go's `crypto/x509`, which Kubernetes signers know from kubelets. The organizations precede the
/// common name and are in one RDN. DNS names precede IP addresses and URIs. If there are no alternative names, there is
/// no extension request. Empty parts of the template are left out. The CSR for a template without names has an empty
/// subject, and only proves the possession of the key, as the stub of a PodCertificateRequest.
///
/// # Errors
/// [`RequestError::Template`] for a template with a name that no certificate can carry; [`RequestError::Signing`] if the
/// key does not sign.
pub fn certificate_request(template: &Template, key: &KeyPair) -> Result<CertificateRequest, RequestError> {
    if !template.is_empty() {
        template.check()?;
    }
    let subject = write::subject(template);
    let names = AlternativeNames {
        dns_names: template.dns_names().map(Into::into).collect(),
        ip_addresses: template.ip_addresses().collect(),
        emails: Vec::new(),
        uris: template.uris().map(Into::into).collect(),
    };
    let names = names.extension(&subject);
    let info = construct_der(|writer| {
        writer.write_sequence(|info| {
            // Version 1 (RFC 2986 §4.1).
            info.next().write_u8(0);
            info.next().write_der(&subject);
            info.next().write_der(key.public_key_der());
            // Required even if empty (RFC 2986 §4.1).
            info.next().write_tagged_implicit(Tag::context(0), |writer| {
                writer.write_set_of(|attributes| {
                    if let Some(names) = &names {
                        extension_request(attributes.next(), names);
                    }
                });
            });
        });
    });
    let der = write::signed(&info, key)?;
    Ok(CertificateRequest { pem: pem::encode(pem::CERTIFICATE_REQUEST, &der).to_string(), der })
}

/// Writes the attribute extensionRequest with one extension (RFC 2985 §5.4.2).
fn extension_request(writer: DERWriter<'_>, extension: &[u8]) {
    const EXTENSION_REQUEST: &[u64] = &[1, 2, 840, 113_549, 1, 9, 14];

    writer.write_sequence(|attribute| {
        write::oid(attribute.next(), EXTENSION_REQUEST);
        attribute.next().write_set_of(|values| {
            values.next().write_sequence(|extensions| extensions.next().write_der(extension));
        });
    });
}

/// Error of a CSR that cannot be made ([`certificate_request`]) or read ([`read_request`](crate::read_request)).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The template has a name that no certificate can carry, or no names.
    #[error("{0}")]
    Template(#[from] TemplateError),
    /// The key could not sign the CSR.
    #[error("the request could not be signed: {}", crate::describe(.0, &[]))]
    Signing(#[from] rustls::Error),
    /// The input is damaged PEM, not PEM, or too large.
    #[error("{0}")]
    Pem(#[from] PemError),
    /// The input is not exactly one PEM block `CERTIFICATE REQUEST`.
    #[error(
        "expected one PEM block CERTIFICATE REQUEST, found {}",
        if found.is_empty() { "none".to_owned() } else { found.join(", ") }
    )]
    NotOneRequest {
        /// The labels of the PEM blocks in the input.
        found: Vec<String>,
    },
    /// The content of the block is not a CSR (PKCS#10).
    #[error("the certificate request is malformed: {reason}")]
    Malformed {
        /// The problem with the CSR, as a clause.
        reason: String,
    },
    /// The public key is malformed, of an unsupported kind, or too weak.
    #[error(
        "the public key of the request is malformed or unsupported; supported are ECDSA on {CURVES}, \
         Ed25519, and RSA of at least 2048 bits"
    )]
    PublicKey,
    /// The signature of the CSR does not verify with the public key in it.
    #[error("the self-signature of the request does not verify: the requester has not shown that it holds the key")]
    Signature,
}
