//! The certificate authority: one key that signs, and the credentials the server itself needs.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial::{UnixTime, Validity};
use perennial_pki::{Chain, Credential, KeyAlgorithm, KeyPair, Roots};
use rustls::SignatureScheme;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::der::{self, oid};
use super::random::{Random, sha256};

/// `keyCertSign` and `cRLSign` (RFC 5280 §4.2.1.3).
const CA_KEY_USAGE: u8 = 0b0000_0110;
pub(super) const DIGITAL_SIGNATURE: u8 = 0b1000_0000;
pub(super) const KEY_ENCIPHERMENT: u8 = 0b0010_0000;

/// A certificate authority that lives in memory.
///
/// Every certificate it signs has fresh parameters: nothing of a request but the subject, the alternative names and
/// the public key gets into it.
pub struct Authority {
    credential: Credential,
    certificate_pem: String,
    subject: Vec<u8>,
    key_identifier: Option<Vec<u8>>,
}

/// What to certify.
pub(super) struct Draft<'a> {
    /// The subject, DER.
    pub(super) subject: &'a [u8],
    /// SubjectPublicKeyInfo, DER.
    pub(super) public_key: &'a [u8],
    pub(super) names: AlternativeNames<'a>,
    pub(super) key_usage: u8,
    pub(super) extended_key_usage: &'a [&'a [u8]],
    pub(super) validity: Validity,
}

/// Subject alternative names.
#[derive(Clone, Copy, Default)]
pub(super) struct AlternativeNames<'a> {
    pub(super) dns: &'a [String],
    pub(super) emails: &'a [String],
    pub(super) ips: &'a [IpAddr],
    pub(super) uris: &'a [String],
}

impl Authority {
    /// A new self-signed authority: ECDSA P-256, common name `perennial-ca-<random>`.
    ///
    /// # Errors
    /// [`AuthorityError`] if no key can be generated, or `lifetime` is shorter than a second.
    pub fn generate(random: &mut Random, now: UnixTime, lifetime: Duration) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).map_err(|error| AuthorityError::Key(error.to_string()))?;
        let subject = der::name(&format!("perennial-ca-{}", random.suffix()), &[]);
        let key_identifier = key_identifier(key.public_key_der());
        let extensions = [
            der::extension(oid::BASIC_CONSTRAINTS, true, &der::sequence(&[&der::boolean(true)])),
            der::extension(oid::KEY_USAGE, true, &der::named_bits(CA_KEY_USAGE)),
            der::extension(oid::SUBJECT_KEY_IDENTIFIER, false, &der::octet_string(&key_identifier)),
        ];
        // Backdated like what it will sign: a client's clock may be a little behind.
        let validity = period(now.before(BACKDATE), now.after(lifetime))?;
        let certificate =
            sign(&key, &random.serial(), &subject, &subject, validity, key.public_key_der(), &extensions.concat())?;
        Self::new(&pem("CERTIFICATE", &certificate), key)
    }

    /// An authority from its certificate and key, PEM, in any order, for example `ca.crt` and `ca.key` of a cluster.
    ///
    /// # Errors
    /// [`AuthorityError`] if they cannot be read, do not belong together, or the certificate is not allowed to sign.
    pub fn from_pem(bundle: &str) -> Result<Self, AuthorityError> {
        let chain =
            Chain::from_pem(bundle.as_bytes()).map_err(|error| AuthorityError::Certificate(error.to_string()))?;
        let key = KeyPair::from_pem(bundle).map_err(|error| AuthorityError::Key(error.to_string()))?;
        let first = chain.der().first().ok_or_else(|| AuthorityError::Certificate("no certificate found".into()))?;
        Self::new(&pem("CERTIFICATE", first), key)
    }

    fn new(certificate_pem: &str, key: KeyPair) -> Result<Self, AuthorityError> {
        let broken = |why: String| AuthorityError::Certificate(why);
        let chain = Chain::from_pem(certificate_pem.as_bytes()).map_err(|error| broken(error.to_string()))?;
        let credential = Credential::new(chain, Arc::new(key)).map_err(|error| broken(error.to_string()))?;
        let der = credential.chain().der().first().ok_or_else(|| broken("no certificate found".into()))?;
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| broken(error.to_string()))?;
        let may_sign = certificate.is_ca()
            && certificate.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
        if !may_sign {
            return Err(AuthorityError::NotAnAuthority);
        }
        let subject = certificate.subject().as_raw().to_vec();
        let key_identifier = certificate.extensions().iter().find_map(|extension| {
            let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() else { return None };
            Some(id.0.to_vec())
        });
        Ok(Self { certificate_pem: certificate_pem.to_owned(), subject, key_identifier, credential })
    }

    /// The certificate, PEM: what clients must trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Certificate and key, PEM: what [`Authority::from_pem`] takes. A secret.
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.credential.to_pem()
    }

    /// The certificate as the root to verify others with.
    ///
    /// # Errors
    /// [`AuthorityError::Certificate`] if it cannot serve as a root.
    pub fn roots(&self) -> Result<Roots, AuthorityError> {
        Roots::from_pem(self.certificate_pem.as_bytes()).map_err(|error| AuthorityError::Certificate(error.to_string()))
    }

    /// When the authority's own certificate is valid; nothing it signs lives longer.
    pub fn validity(&self) -> Validity {
        self.credential.chain().certificate().validity
    }

    /// A credential for a TLS server with these names.
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
        let dns: Vec<String> = dns_names.iter().map(|name| (*name).to_owned()).collect();
        let names = AlternativeNames { dns: &dns, ips: ip_addresses, ..AlternativeNames::default() };
        let subject = der::name("perennial-apiserver", &[]);
        self.credential(&subject, names, oid::SERVER_AUTH, random, now, lifetime)
    }

    /// A credential for a client: `O=system:masters` makes an administrator.
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
        self.credential(
            &der::name(common_name, organizations),
            AlternativeNames::default(),
            oid::CLIENT_AUTH,
            random,
            now,
            lifetime,
        )
    }

    fn credential(
        &self,
        subject: &[u8],
        names: AlternativeNames<'_>,
        usage: &[u8],
        random: &mut Random,
        now: UnixTime,
        lifetime: Duration,
    ) -> Result<Credential, AuthorityError> {
        let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).map_err(|error| AuthorityError::Key(error.to_string()))?;
        let draft = Draft {
            subject,
            public_key: key.public_key_der(),
            names,
            key_usage: DIGITAL_SIGNATURE,
            extended_key_usage: &[usage],
            validity: self.period(now, lifetime, None)?,
        };
        let certificate = self.certify(&draft, random)?;
        let chain =
            Chain::from_pem(certificate.as_bytes()).map_err(|error| AuthorityError::Certificate(error.to_string()))?;
        Credential::new(chain, Arc::new(key)).map_err(|error| AuthorityError::Certificate(error.to_string()))
    }

    /// The validity a cluster's signer gives: backdated, the backdating taken off long lifetimes, and no longer than
    /// the authority's own. By default the backdating is five minutes, or a twentieth of shorter lifetimes.
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
        let end = if lifetime < SHORT { now.after(lifetime) } else { now.after(lifetime.saturating_sub(backdate)) };
        period(now.before(backdate), end.min(own.not_after()))
    }

    /// Signs a certificate and gives it as PEM.
    pub(super) fn certify(&self, draft: &Draft<'_>, random: &mut Random) -> Result<String, AuthorityError> {
        let mut extensions = vec![
            der::extension(oid::KEY_USAGE, true, &der::named_bits(draft.key_usage)),
            der::extension(oid::BASIC_CONSTRAINTS, true, &der::sequence(&[])),
        ];
        if draft.key_usage == 0 {
            extensions.remove(0);
        }
        if !draft.extended_key_usage.is_empty() {
            let usages: Vec<u8> =
                draft.extended_key_usage.iter().flat_map(|usage| der::object_identifier(usage)).collect();
            extensions.push(der::extension(oid::EXTENDED_KEY_USAGE, false, &der::sequence(&[&usages])));
        }
        if let Some(id) = &self.key_identifier {
            let content = der::sequence(&[&der::implicit(0, id)]);
            extensions.push(der::extension(oid::AUTHORITY_KEY_IDENTIFIER, false, &content));
        }
        let names = general_names(draft.names);
        if names != der::sequence(&[]) {
            // Names must be critical where there is no subject (RFC 5280 §4.2.1.6).
            let critical = draft.subject == der::sequence(&[]);
            extensions.push(der::extension(oid::SUBJECT_ALT_NAME, critical, &names));
        }
        let certificate = sign(
            self.credential.key(),
            &random.serial(),
            &self.subject,
            draft.subject,
            draft.validity,
            draft.public_key,
            &extensions.concat(),
        )?;
        Ok(pem("CERTIFICATE", &certificate))
    }
}

/// Shows the certificate's facts, never the key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("certificate", self.credential.chain().certificate()).finish_non_exhaustive()
    }
}

const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Below this lifetime a cluster's signer does not take the backdating off.
const SHORT: Duration = Duration::from_secs(8 * 3600);

fn period(from: UnixTime, to: UnixTime) -> Result<Validity, AuthorityError> {
    // Certificates count whole seconds.
    let seconds = |time: UnixTime| UnixTime::from_secs(time.as_secs());
    Validity::new(seconds(from), seconds(to)).map_err(|error| AuthorityError::Certificate(error.to_string()))
}

/// How authorities sign: one algorithm for each kind of key, with its parameters (RFC 5758, 8410, 4055).
const ALGORITHMS: [(SignatureScheme, &[u8], &[u8]); 4] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, oid::ECDSA_WITH_SHA256, &[]),
    (SignatureScheme::ECDSA_NISTP384_SHA384, oid::ECDSA_WITH_SHA384, &[]),
    (SignatureScheme::ED25519, oid::ED25519, &[]),
    (SignatureScheme::RSA_PKCS1_SHA256, oid::SHA256_WITH_RSA, der::NULL),
];

/// Writes and signs a version 3 certificate.
fn sign(
    key: &KeyPair,
    serial: &[u8],
    issuer: &[u8],
    subject: &[u8],
    validity: Validity,
    public_key: &[u8],
    extensions: &[u8],
) -> Result<Vec<u8>, AuthorityError> {
    let cannot = |why: String| AuthorityError::Key(why);
    let signer = key
        .signing_key()
        .choose_scheme(&ALGORITHMS.map(|(scheme, ..)| scheme))
        .ok_or_else(|| cannot("keys of this kind cannot sign certificates here".into()))?;
    let (_, id, parameters) = ALGORITHMS
        .into_iter()
        .find(|(scheme, ..)| *scheme == signer.scheme())
        .ok_or_else(|| cannot(format!("{:?} is none of the algorithms asked for", signer.scheme())))?;
    let algorithm = der::sequence(&[&der::object_identifier(id), parameters]);
    let version = der::explicit(0, &der::integer(&[2]));
    let period = der::sequence(&[&der::time(validity.not_before()), &der::time(validity.not_after())]);
    let extensions = der::explicit(3, &der::sequence(&[extensions]));
    let to_be_signed = der::sequence(&[
        &version,
        &der::integer(serial),
        &algorithm,
        issuer,
        &period,
        subject,
        public_key,
        &extensions,
    ]);
    let signature = signer.sign(&to_be_signed).map_err(|error| cannot(error.to_string()))?;
    Ok(der::sequence(&[&to_be_signed, &algorithm, &der::bit_string(&signature)]))
}

/// Subject alternative names in the order Go writes them.
fn general_names(names: AlternativeNames<'_>) -> Vec<u8> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    all.extend(names.dns.iter().map(|name| der::implicit(2, name.as_bytes())));
    all.extend(names.emails.iter().map(|email| der::implicit(1, email.as_bytes())));
    all.extend(names.ips.iter().map(|ip| match ip {
        IpAddr::V4(ip) => der::implicit(7, &ip.octets()),
        IpAddr::V6(ip) => der::implicit(7, &ip.octets()),
    }));
    all.extend(names.uris.iter().map(|uri| der::implicit(6, uri.as_bytes())));
    der::sequence(&[&all.concat()])
}

/// 160 bits of SHA-256 over the public key (RFC 7093 §2, method 1, over the whole SubjectPublicKeyInfo).
fn key_identifier(public_key: &[u8]) -> Vec<u8> {
    sha256().hash(public_key).as_ref()[..20].to_vec()
}

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem + "-----END " + label + "-----\n"
}

/// Why an authority cannot be made, or cannot sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityError {
    /// The key cannot be generated, read or used.
    Key(String),
    /// A certificate cannot be read, does not fit its key or would be empty.
    Certificate(String),
    /// The certificate is not one of an authority: give the CA's own, which has `CA:TRUE` and may sign certificates.
    NotAnAuthority,
    /// The authority's own certificate has expired.
    Expired(UnixTime),
}

impl fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(why) => write!(f, "key of the certificate authority: {why}"),
            Self::Certificate(why) => write!(f, "certificate of the certificate authority: {why}"),
            Self::NotAnAuthority => f.write_str(
                "the certificate may not sign others; give the certificate authority's own (CA:TRUE, keyCertSign)",
            ),
            Self::Expired(at) => write!(f, "the certificate authority has expired at {at}; make a new one"),
        }
    }
}

impl std::error::Error for AuthorityError {}
