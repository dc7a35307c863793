//! [`Chain`]: reads a certificate chain from PEM or DER, and returns the facts of its leaf.

use std::ops::Range;
use std::sync::Arc;

use perennial::{Certificate, Fingerprint, Template, UnixTime, Validity, ValidityError};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::{ExtendedKeyUsage, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS;

use crate::names::{self, AlternativeNames, Subject};
use crate::pem::{self, Text};
use crate::{PemError, Roots, Usage, sha256, strict, x509};

/// The largest number of certificates that a chain may have. No real chain has so many.
const MAX_CERTIFICATES: usize = 16;

/// A certificate chain, the leaf (the end entity certificate) first. Cheap to clone.
#[derive(Clone, derive_more::Debug)]
#[debug("Chain({:?}, serial {}, issuer {}, length {})", _0.certificate, self.serial(), self.issuer(), _0.issuers.len() + 1)]
pub struct Chain(Arc<Parsed>);

struct Parsed {
    certificate: Arc<Certificate>,
    /// The certificates of the chain in DER, one after another.
    der: Box<[u8]>,
    /// For each certificate in `der` but the leaf, the index of its first byte.
    issuers: Box<[usize]>,
    /// The serial number and the issuer of the leaf as text, one after another.
    serial_and_issuer: Box<str>,
    serial_length: usize,
    /// The place of the leaf's `SubjectPublicKeyInfo` in `der`.
    public_key: Range<usize>,
    constraints: Constraints,
    skipped: Box<[PemError]>,
}

/// The uses that the leaf's basic constraints, key usage and extended key usage allow. An absent extension restricts
/// nothing.
pub(crate) struct Constraints {
    pub(crate) is_ca: bool,
    pub(crate) may_sign: bool,
    client_auth: bool,
    server_auth: bool,
}

impl Chain {
    /// Reads a chain from the `CERTIFICATE` blocks of a file on disk. The file may contain the chain alone, or chain
    /// and key, as kubelet's does. Like Go, skips text, headers, blocks of other kinds, and damage outside of the leaf;
    /// [`Chain::skipped`] lists the damage.
    ///
    /// # Errors
    /// [`ChainError`]: no certificate, more than 16 certificates or 1 MiB, a PEM boundary that shares its line with
    /// other text, or a leaf that cannot be read. A leaf with a malformed alternative name, such as an IP address of
    /// five bytes, counts as unreadable, since peers cannot read such a leaf, either.
    pub fn from_pem(pem: &[u8]) -> Result<Self, ChainError> {
        let text = pem::read(pem, pem::MAX_PAIR).and_then(Text::unglued)?;
        let mut der = Vec::new();
        let mut skipped = Vec::new();
        for block in text.blocks.iter().filter(|block| block.label == pem::CERTIFICATE) {
            let content = block.der()?;
            match x509::parse(&content) {
                // Go's `X509KeyPair` parses the leaf only, so that garbage behind a leaf is no error for kubelet.
                Err(reason) if !der.is_empty() => skipped.push(block.unusable(reason)),
                _ => der.push(CertificateDer::from(content.to_vec())),
            }
        }
        if der.is_empty() {
            return Err(text.why_empty().map_or(ChainError::Empty, ChainError::Pem));
        }
        skipped.extend(text.damage);
        Self::read(der, skipped)
    }

    /// Reads the chain that a signer issued, and skips no damage: all blocks must be readable `CERTIFICATE` blocks
    /// without headers. Text around the blocks is allowed, as in `status.certificate` of a Kubernetes request.
    ///
    /// # Errors
    /// [`ChainError`]: any damage, a block of another kind or with headers, or the problems that
    /// [`from_der`](Self::from_der) finds.
    pub fn from_issued(pem: &[u8]) -> Result<Self, ChainError> {
        let mut der = Vec::new();
        for block in pem::read(pem, pem::MAX_PAIR).and_then(Text::undamaged)? {
            block.require_certificate()?;
            der.push(CertificateDer::from(block.der()?.to_vec()));
        }
        Self::from_der(der)
    }

    /// Makes a chain of DER certificates, the leaf first.
    ///
    /// # Errors
    /// [`ChainError`]: no certificate, more than 16, one that cannot be read, or a leaf that is never valid.
    pub fn from_der(der: Vec<CertificateDer<'_>>) -> Result<Self, ChainError> {
        Self::read(der, Vec::new())
    }

    fn read(der: Vec<CertificateDer<'_>>, skipped: Vec<PemError>) -> Result<Self, ChainError> {
        if der.len() > MAX_CERTIFICATES {
            return Err(ChainError::TooLong { certificates: der.len() });
        }
        let (leaf, issuers) = der.split_first().ok_or(ChainError::Empty)?;
        for (behind, issuer) in issuers.iter().enumerate() {
            x509::parse(issuer).map_err(|reason| ChainError::Certificate { position: behind + 2, reason })?;
        }
        let bytes = leaf;
        let leaf = x509::parse(bytes).map_err(unreadable_leaf)?;
        let names = alternative_names(&leaf).map_err(unreadable_leaf)?;
        // A slice of `bytes`, which `Parsed::der` begins with.
        let public_key = leaf.public_key().raw;
        let start = public_key.as_ptr().addr() - bytes.as_ptr().addr();
        let end_of = |end: &mut usize, der: &CertificateDer<'_>| {
            *end += der.len();
            Some(*end)
        };
        let serial = serial(&leaf);
        let parsed = Parsed {
            certificate: Arc::new(facts(&leaf, names)?),
            der: der.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>().concat().into(),
            issuers: der.iter().scan(0, end_of).take(issuers.len()).collect(),
            serial_and_issuer: [&*serial, &names::display(leaf.issuer())].concat().into(),
            serial_length: serial.len(),
            public_key: start..start + public_key.len(),
            constraints: constraints(&leaf).map_err(unreadable_leaf)?,
            skipped: skipped.into(),
        };
        Ok(Self(Arc::new(parsed)))
    }

    /// The damage in the file that [`from_pem`](Self::from_pem) skipped, for warnings. Chains are compared without
    /// regard to damage.
    pub fn skipped(&self) -> &[PemError] {
        &self.0.skipped
    }

    /// The facts of the leaf, by which the machine judges it. The field `provisional` is false.
    pub fn certificate(&self) -> &Arc<Certificate> {
        &self.0.certificate
    }

    /// Shares the names in [`certificate`](Self::certificate) with `template` if they are equal. Does nothing if the
    /// chain has clones: share the names before you clone the chain.
    pub fn share_names(&mut self, template: &Arc<Template>) {
        if let Some(parsed) = Arc::get_mut(&mut self.0) {
            parsed.certificate = Arc::new(Certificate::clone(&parsed.certificate).sharing_names(template));
        }
    }

    /// Encodes the certificates of the chain as PEM, without the text, the headers and the other blocks of the file.
    pub fn pem(&self) -> String {
        encode(&self.der())
    }

    /// The certificates in DER, the leaf first. Never empty. Makes a list of references; copies no certificate.
    pub fn der(&self) -> Vec<CertificateDer<'_>> {
        let issuers = self.0.issuers.iter().copied();
        let (starts, ends) = ([0].into_iter().chain(issuers.clone()), issuers.chain([self.bytes().len()]));
        let certificates = starts.zip(ends).filter_map(|(start, end)| self.bytes().get(start..end));
        certificates.map(CertificateDer::from).collect()
    }

    fn bytes(&self) -> &[u8] {
        &self.0.der
    }

    /// The CA certificates that follow the leaf in the chain, as roots to verify peers with. A peer is then trusted if
    /// one of these CAs has issued its certificate.
    ///
    /// # Errors
    /// [`ChainError::Empty`]: no usable CA certificate follows the leaf.
    pub fn issuers(&self) -> Result<Roots, ChainError> {
        let is_ca = |der: &&CertificateDer<'_>| {
            x509::parse(der).ok().and_then(|issuer| constraints(&issuer).ok()).is_some_and(|found| found.is_ca)
        };
        Roots::from_der(self.der().iter().skip(1).filter(is_ca))
    }

    /// The serial number of the leaf: upper-case hexadecimal, as `openssl x509 -serial` prints it.
    pub fn serial(&self) -> &str {
        &self.0.serial_and_issuer[..self.0.serial_length]
    }

    /// The issuer of the leaf, as `O=…, CN=…`.
    pub fn issuer(&self) -> &str {
        &self.0.serial_and_issuer[self.0.serial_length..]
    }

    /// The public key of the leaf as a DER `SubjectPublicKeyInfo`.
    pub fn public_key_der(&self) -> &[u8] {
        self.bytes().get(self.0.public_key.clone()).unwrap_or_default()
    }

    /// The URIs among the subject alternative names of the leaf, byte for byte, sorted.
    pub fn uris(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.certificate.names.uris()
    }

    /// The encoding error for which TLS peers may refuse the leaf, as a clause; `None` if the leaf has no such error.
    ///
    /// A pair on disk is used in spite of such an error, with a warning, since some peers may read the leaf. An issued
    /// certificate with such an error is rejected ([`Expected::check`](crate::Expected::check)).
    pub fn encoding_error(&self) -> Option<String> {
        strict::leaf(self.der().first()?).err()
    }

    /// True if the leaf may be used for `usage`: its extended key usage lists `usage` or `anyExtendedKeyUsage`, or is
    /// absent.
    pub fn is_for(&self, usage: Usage) -> bool {
        match usage {
            Usage::ClientAuth => self.0.constraints.client_auth,
            Usage::ServerAuth => self.0.constraints.server_auth,
        }
    }

    pub(crate) fn constraints(&self) -> &Constraints {
        &self.0.constraints
    }
}

/// Two chains are equal if they consist of the same certificates in the same order.
impl PartialEq for Chain {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.issuers == other.0.issuers && self.bytes() == other.bytes()
    }
}

impl Eq for Chain {}

pub(crate) fn encode(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|der| pem::encode(pem::CERTIFICATE, der).to_string()).collect()
}

fn unreadable_leaf(reason: String) -> ChainError {
    ChainError::Certificate { position: 1, reason }
}

fn alternative_names(leaf: &X509Certificate<'_>) -> Result<AlternativeNames, String> {
    let names = leaf.subject_alternative_name().map_err(|error| x509::reason(&error).to_owned())?;
    names.map_or_else(|| Ok(AlternativeNames::default()), |names| AlternativeNames::read(names.value))
}

fn facts(leaf: &X509Certificate<'_>, names: AlternativeNames) -> Result<Certificate, ChainError> {
    let Subject { common_name, organizations, organizational_units, serial_number, .. } = Subject::read(leaf.subject());
    let AlternativeNames { dns_names, ip_addresses, uris, .. } = names;
    let names = Template::new(common_name)
        .with_organizations(organizations)
        .with_organizational_units(organizational_units)
        .with_serial_number(serial_number)
        .with_dns_names(dns_names)
        .with_ip_addresses(ip_addresses)
        .with_uris(uris);
    Ok(Certificate::for_template(names, validity(leaf)?, Fingerprint(sha256(leaf.as_raw()))))
}

fn validity(leaf: &X509Certificate<'_>) -> Result<Validity, ValidityError> {
    let validity = leaf.validity();
    let [not_before, not_after] =
        [validity.not_before, validity.not_after].map(|time| UnixTime::from_secs(time.timestamp()));
    Validity::new(not_before, not_after)
}

fn serial(leaf: &X509Certificate<'_>) -> String {
    let bytes = leaf.raw_serial();
    // DER puts a zero byte before a number whose first bit is set, to make it positive.
    let digits = bytes.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(bytes);
    digits.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn constraints(leaf: &X509Certificate<'_>) -> Result<Constraints, String> {
    let unreadable = |error: X509Error| x509::reason(&error).to_owned();
    let basic = leaf.get_extension_unique(&OID_X509_EXT_BASIC_CONSTRAINTS).map_err(unreadable)?;
    let is_ca = match basic.map(|extension| extension.parsed_extension()) {
        None => false,
        Some(ParsedExtension::BasicConstraints(basic)) => basic.ca,
        Some(_) => return Err("its basicConstraints cannot be read".to_owned()),
    };
    let usage = leaf.key_usage().map_err(unreadable)?;
    let extended = leaf.extended_key_usage().map_err(unreadable)?;
    let is_for = |named: fn(&ExtendedKeyUsage<'_>) -> bool| {
        extended.as_ref().is_none_or(|usage| usage.value.any || named(usage.value))
    };
    Ok(Constraints {
        is_ca,
        may_sign: usage.is_none_or(|usage| usage.value.digital_signature()),
        client_auth: is_for(|usage| usage.client_auth),
        server_auth: is_for(|usage| usage.server_auth),
    })
}

/// Error of an input that is not a usable certificate chain or CA bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The input is damaged PEM, not PEM, or too large.
    #[error("{0}")]
    Pem(#[from] PemError),
    /// There is no certificate in the input.
    #[error("no certificate found; expected a PEM block CERTIFICATE")]
    Empty,
    /// The chain has more than 16 certificates: the input may be a CA bundle.
    #[error(
        "a chain of {certificates} certificates is longer than any real one (at most {MAX_CERTIFICATES}); \
         is this a CA bundle?"
    )]
    TooLong {
        /// The number of certificates in the chain.
        certificates: usize,
    },
    /// A certificate of the chain cannot be read.
    #[error("certificate {position} cannot be read: {reason}")]
    Certificate {
        /// The position of the certificate in the chain, counted from 1, the leaf.
        position: usize,
        /// The problem with the certificate, as a clause.
        reason: String,
    },
    /// The leaf is never valid: its notBefore is not before its notAfter.
    #[error("the certificate is never valid: {0}")]
    Validity(#[from] ValidityError),
    /// A CA bundle contains no certificate that can verify others.
    #[error("{}{first}", of_bundle(*certificates))]
    NoUsableRoot {
        /// The number of unusable certificates.
        certificates: usize,
        /// The problem with the first unusable certificate.
        #[source]
        first: PemError,
    },
}

fn of_bundle(certificates: usize) -> String {
    match certificates {
        1 => String::new(),
        _ => format!("none of the {certificates} certificates of the CA bundle can be used; "),
    }
}
