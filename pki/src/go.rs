//! [`go_verdict`]: whether a program written in Go, such as kubelet, can load a pair from disk.

use rustls::pki_types::CertificateDer;

use crate::key::has_compressed_point;
use crate::pem::{self, Block};
use crate::{Chain, CredentialError, KeyError, KeyPair, der, strict};

/// The result of Go's `tls.LoadX509KeyPair` for a pair, as perennial predicts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoVerdict {
    /// Go loads the pair; contains the chain of the pair.
    Loads(Chain),
    /// Go refuses the pair; contains the reason, as a clause.
    Refuses(String),
    /// perennial cannot read the pair, and so cannot predict Go's result.
    Unknown {
        /// The chain of the pair, if perennial can read the chain.
        chain: Option<Chain>,
        /// The reason why perennial cannot read the pair, as a clause.
        why: String,
    },
}

/// Judges by Go's rules (crypto/tls `X509KeyPair`, encoding/pem, crypto/x509) whether a Go program loads a pair.
/// `certificate` and `key` are the contents of the certificate file and of the key file, which may be one file.
pub fn go_verdict(certificate: &[u8], key: &[u8]) -> GoVerdict {
    judge(certificate, key).unwrap_or_else(|verdict| verdict)
}

fn judge(certificate: &[u8], key: &[u8]) -> Result<GoVerdict, GoVerdict> {
    let der = certificates(certificate)?;
    let leaf = der.first().ok_or_else(|| refuses("Go finds no CERTIFICATE block"))?;
    strict::go(leaf).map_err(|why| refuses(format!("Go cannot read the certificate: {why}")))?;
    // Go's `X509KeyPair` parses the leaf only: certificates behind it do not change the verdict.
    let chain = Chain::from_der(vec![leaf.clone()]).map_err(|error| unknown(None, error.to_string()))?;
    if has_compressed_point(chain.public_key_der()) {
        return Err(refuses("Go cannot read the certificate: its public key is a compressed point"));
    }
    let blocks = blocks(key)?;
    let block = blocks.iter().find(|block| block.is_key()).ok_or_else(|| refuses("Go finds no PRIVATE KEY block"))?;
    match KeyPair::from_block(block, Some(chain.public_key_der())).map_err(|error| key_error(&chain, block, error))? {
        key if key.public_key_der() == chain.public_key_der() => Ok(GoVerdict::Loads(chain)),
        _ => Err(mismatch(&chain)),
    }
}

/// Reads the PEM blocks that Go finds. Leaves out a block directly after a byte order mark, since Go does not find such
/// a block.
fn blocks(text: &[u8]) -> Result<Vec<Block<'_>>, GoVerdict> {
    let text = pem::read(text, pem::MAX_PAIR).map_err(|error| unknown(None, error.to_string()))?;
    Ok(text.blocks.into_iter().filter(|block| !block.is_marked).collect())
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, GoVerdict> {
    let blocks = blocks(text)?;
    let certificates = blocks.iter().filter(|block| block.label == pem::CERTIFICATE);
    certificates
        .map(|block| Ok(block.der()?.to_vec().into()))
        .collect::<Result<_, pem::PemError>>()
        .map_err(|error| unknown(None, error.to_string()))
}

/// Judges a pair whose key perennial cannot read. Unlike perennial, Go reads RSA keys of any size and keys on P-224 and
/// P-521, and computes a missing public key.
fn key_error(chain: &Chain, block: &Block<'_>, error: KeyError) -> GoVerdict {
    let is_known_to_go = match &error {
        KeyError::NoPublicKey => return mismatch(chain),
        KeyError::Encrypted | KeyError::Pem(_) => return refuses(error.to_string()),
        KeyError::RsaSize { .. } => true,
        KeyError::Curve { curve } => matches!(curve.as_str(), "P-224" | "P-521"),
        // Well-formed DER may be a key that Go reads and perennial does not.
        KeyError::Malformed => block.der().is_ok_and(|key| der::check(&key).is_ok()),
        _ => false,
    };
    if is_known_to_go {
        unknown(Some(chain.clone()), error.to_string())
    } else {
        refuses(format!("Go cannot read the private key: {error}"))
    }
}

fn mismatch(chain: &Chain) -> GoVerdict {
    refuses(CredentialError::KeyMismatch { serial: chain.serial().to_owned() }.to_string())
}

fn refuses(why: impl Into<String>) -> GoVerdict {
    GoVerdict::Refuses(why.into())
}

fn unknown(chain: Option<Chain>, why: String) -> GoVerdict {
    GoVerdict::Unknown { chain, why }
}
