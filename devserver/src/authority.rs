//! The certificate authority, and the credentials that it issues for the server and its clients.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Template, UnixTime, Validity, ValidityError};
use perennial_pki::{
    Chain, ChainError, Credential, CredentialError, IssueError, Issuer, KeyAlgorithm, KeyError, KeyPair, KeyUsage,
    RequestError, RequestFacts, Roots, Terms, Usage, certificate_request, read_request, self_signed,
};
use zeroize::Zeroizing;

use super::random::Random;

/// A certificate authority that lives in memory.
///
/// From a request, a certificate takes only the subject, the alternative names and the public key; other requested
/// extensions are ignored.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer,
    /// The CA's own certificate, in PEM.
    certificate_pem: String,
    /// Certificates of the previous CAs, in PEM. The server still accepts clients whose certificates these CAs have
    /// signed.
    predecessors: Vec<String>,
}

impl Authority {
    /// A new self-signed authority: ECDSA P-256, common name `perennial-ca-<random>`.
    ///
    /// # Errors
    /// [`AuthorityError`] if no key can be generated, or `lifetime` is shorter than a second.
    pub fn generate(random: &mut Random, now: UnixTime, lifetime: Duration) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate(KeyAlgorithm::EcdsaP256)?;
        let common_name = format!("perennial-ca-{}", random.suffix());
        // Backdated like the certificates it will sign: a client's clock may be a little behind.
        let validity = period(now.before(BACKDATE), now.after(lifetime))?;
        let chain = self_signed(&common_name, &key, &random.serial(), validity)?;
        Self::new(chain, key)
    }

    /// Reads an authority from a text that contains its certificate and key in PEM, in any order, for example the
    /// contents of a cluster's `ca.crt` and `ca.key`.
    ///
    /// # Errors
    /// [`AuthorityError`] if certificate or key cannot be read, if the two do not belong together, or if the
    /// certificate may not sign.
    pub fn from_pem(bundle: &str) -> Result<Self, AuthorityError> {
        let chain = Chain::from_pem(bundle.as_bytes())?;
        let key = KeyPair::from_pem(bundle)?;
        // Only the first certificate: clients of this authority must not trust the CA above it.
        let first = chain.der().into_iter().take(1).collect();
        Self::new(Chain::from_der(first)?, key)
    }

    fn new(chain: Chain, key: KeyPair) -> Result<Self, AuthorityError> {
        let certificate_pem = chain.pem();
        let credential = Credential::new(chain, Arc::new(key))?;
        Ok(Self { issuer: Issuer::new(credential)?, certificate_pem, predecessors: Vec::new() })
    }

    /// Makes this CA the successor of `before`: clients with certificates of `before` or of its predecessors stay
    /// trusted.
    pub(super) fn trust_predecessor(&mut self, before: Self) {
        let signed_before = before.certificate_pem;
        self.predecessors.extend(before.predecessors);
        self.predecessors.push(signed_before);
        // An earlier authority may return: it is not its own predecessor.
        self.predecessors.retain(|predecessor| *predecessor != self.certificate_pem);
    }

    pub(super) fn forget_predecessors(&mut self) {
        self.predecessors.clear();
    }

    /// The CA's own certificate, PEM. While an authority is [being replaced](super::Api::rotate_authority), clients
    /// must trust all the [roots](Authority::roots).
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Certificate and key, PEM, for [`Authority::from_pem`]. A secret.
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.issuer.credential().to_pem()
    }

    /// The CA certificates to verify clients with: the current one and its predecessors.
    ///
    /// # Errors
    /// [`AuthorityError::Certificate`] if a certificate cannot serve as a root.
    pub fn roots(&self) -> Result<Roots, AuthorityError> {
        let mut bundle = self.certificate_pem.clone();
        bundle.extend(self.predecessors.iter().map(String::as_str));
        Ok(Roots::from_pem(bundle.as_bytes())?)
    }

    /// Validity of the CA's own certificate. No certificate signed by the CA ends later.
    pub fn validity(&self) -> Validity {
        self.issuer.credential().chain().certificate().validity
    }

    /// A new key and certificate for a TLS server with these names, valid for `lifetime`.
    ///
    /// # Errors
    /// [`AuthorityError`] if no key can be generated or the authority has expired.
    pub fn server_credential(
        &self,
        dns_names: &[&str],
        ip_addresses: &[IpAddr],
        random: &mut Random,
        now: UnixTime,
        lifetime: Duration,
    ) -> Result<Credential, AuthorityError> {
        let template = Template::new("perennial-apiserver")
            .with_dns_names(dns_names.iter().copied())
            .with_ip_addresses(ip_addresses.iter().copied());
        self.credential(&template, Usage::ServerAuth, random, now, lifetime)
    }

    /// A new key and certificate for a client, valid for `lifetime`. The organization `system:masters` makes the client
    /// an administrator.
    ///
    /// # Errors
    /// [`AuthorityError`] if no key can be generated or the authority has expired.
    pub fn client_credential(
        &self,
        common_name: &str,
        organizations: &[&str],
        random: &mut Random,
        now: UnixTime,
        lifetime: Duration,
    ) -> Result<Credential, AuthorityError> {
        let template = Template::new(common_name).with_organizations(organizations.iter().copied());
        self.credential(&template, Usage::ClientAuth, random, now, lifetime)
    }

    fn credential(
        &self,
        template: &Template,
        usage: Usage,
        random: &mut Random,
        now: UnixTime,
        lifetime: Duration,
    ) -> Result<Credential, AuthorityError> {
        let key = KeyPair::generate(KeyAlgorithm::EcdsaP256)?;
        let request = certificate_request(template, &key)?;
        let request = read_request(request.pem.as_bytes())?;
        let validity = self.period(now, lifetime, None)?;
        let chain = self.certify(&request, validity, &[KeyUsage::DigitalSignature], &[usage], random)?;
        Ok(Credential::new(chain, Arc::new(key))?)
    }

    /// The validity of a certificate that is issued at `now`, by the rules of a cluster's signer. notBefore precedes
    /// `now` by `backdate`; `None` is five minutes or a twentieth of `lifetime`, whichever is shorter. A `lifetime`
    /// below eight hours counts from `now`, a longer one from notBefore. notAfter is never later than the notAfter of
    /// the authority's own certificate.
    pub(super) fn period(
        &self,
        now: UnixTime,
        lifetime: Duration,
        backdate: Option<Duration>,
    ) -> Result<Validity, AuthorityError> {
        let own = self.validity();
        if own.expired(now) {
            return Err(AuthorityError::Expired(own.not_after()));
        }
        let backdate = backdate.unwrap_or_else(|| BACKDATE.min(lifetime / 20));
        let end =
            if lifetime < SHORT_LIFETIME { now.after(lifetime) } else { now.after(lifetime.saturating_sub(backdate)) };
        period(now.before(backdate), end.min(own.not_after()))
    }

    /// Signs a certificate with the subject, names and key of `request`.
    pub(super) fn certify(
        &self,
        request: &RequestFacts,
        validity: Validity,
        key_usages: &[KeyUsage],
        extended_key_usages: &[Usage],
        random: &mut Random,
    ) -> Result<Chain, AuthorityError> {
        let terms = Terms { serial: &random.serial(), validity, key_usages, extended_key_usages };
        Ok(self.issuer.issue(request, &terms)?)
    }
}

const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// A cluster's signer counts a lifetime below this one from the time of signing, and a longer one from the backdated
/// notBefore.
const SHORT_LIFETIME: Duration = Duration::from_secs(8 * 3600);

fn period(from: UnixTime, to: UnixTime) -> Result<Validity, AuthorityError> {
    // X.509 times are whole seconds (RFC 5280 §4.1.2.5).
    let seconds = |time: UnixTime| UnixTime::from_secs(time.as_secs());
    Ok(Validity::new(seconds(from), seconds(to))?)
}

/// Error of a certificate authority that cannot be created, or cannot sign.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// A key cannot be generated, or the authority's own key cannot be read.
    #[error("key of the certificate authority: {0}")]
    Key(#[from] KeyError),
    /// The certificate cannot be read, or cannot serve as a root.
    #[error("certificate of the certificate authority: {0}")]
    Certificate(#[from] ChainError),
    /// Certificate and key do not belong together.
    #[error("certificate of the certificate authority: {0}")]
    Credential(#[from] CredentialError),
    /// The authority's certificate lacks `CA:TRUE` or the key usage `keyCertSign`, or a certificate could not be
    /// signed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The CSR for a new credential cannot be created, for example because one of the names is no DNS name.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The validity of a certificate would be empty: notBefore is not before notAfter.
    #[error(transparent)]
    Validity(#[from] ValidityError),
    /// The authority's own certificate has expired.
    #[error("the certificate authority expired at {0}; create a new one")]
    Expired(UnixTime),
}
