//! The pending record: the facts and the key of the last request, from which a restart continues.

use std::net::IpAddr;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use perennial::{Failure, Fingerprint, Key, Pending, Refusal, Renewal, Template, UnixTime};
use perennial_pki::{KeyError, KeyPair};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use zeroize::Zeroizing;

use crate::rare_names::RareNames;
use crate::{KeySource, disk_name};

/// The pending record, which a rotation leaves to its next start. Contains a private key: store it as safely as the
/// key.
///
/// Contains the names and the key of the request, but not the signed CSR. A restart signs a CSR again, and continues
/// the request with this CSR: the name of a request object is derived from key, names and usages, so that the restart
/// finds the object. perennial then compares key, subject and names of the object with the CSR, but not the signature,
/// since no two ECDSA signatures are equal.
#[derive(Clone, Debug)]
pub struct Record {
    /// Endpoint of the signer as configured, for example the URL of an API server. `None` if the signer has no
    /// endpoint, and in a record of an older version.
    pub server: Option<String>,
    /// Name of the signer that the request was submitted to.
    pub signer_name: String,
    /// The signer's [`request_digest`](crate::Signer::request_digest). `None` if the signer has none, and in a record of an
    /// older version.
    pub request_digest: Option<String>,
    /// The name of the request object; empty if requests to this signer have no name, and once the certificate of the
    /// request is durable.
    pub request_name: String,
    /// The machine's record of the request, the submission budget and the refusal.
    pub pending: Pending,
    /// The rotation point that a hint of the signer has set for the newest certificate; `None`: the policy's window
    /// decides.
    pub renewal: Option<Renewal>,
    /// The certificate that the request replaces at once, since a request with another digest has led to it; `None` if there
    /// is none.
    pub outdated: Option<Fingerprint>,
    /// The failure of the last request, if it is [`Failure::Unauthorized`] or [`Failure::Forbidden`]. For people only:
    /// a restart does not back off for these failures.
    pub turned_down: Option<Failure>,
    /// The key, if the next request may use it again ([`Key::Pending`]).
    pub key: Option<Arc<KeyPair>>,
}

const VERSION: u64 = 1;

impl Record {
    /// Encodes the record as JSON. The returned buffer is wiped on drop.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let Pending { template, submitted, budget_whole, refusal, .. } = &self.pending;
        let pem = self.key.as_ref().map(|key| key.to_pem());
        let mut text = Text {
            version: VERSION,
            server: self.server.clone(),
            signer_name: self.signer_name.clone(),
            request_digest: self.request_digest.clone(),
            request_name: self.request_name.clone(),
            common_name: template.common_name().to_owned(),
            organizations: template.organizations().map(Into::into).collect(),
            dns_names: template.dns_names().map(Into::into).collect(),
            ip_addresses: template.ip_addresses().collect(),
            rare_names: RareNames::of(template),
            submitted: submitted.as_millis(),
            budget_whole: budget_whole.as_millis(),
            refusal: refusal.map(|Refusal { failure, failures, retry_at }| RefusalText {
                reason: disk_name::failure(failure),
                failures,
                retry_at: retry_at.as_millis(),
            }),
            outdated: self.outdated.map(|fingerprint| HEXLOWER.encode(&fingerprint.0)),
            turned_down: self.turned_down.map(disk_name::failure),
            renewal: self.renewal.map(|Renewal { fingerprint, rotate_at }| RenewalText {
                fingerprint: HEXLOWER.encode(&fingerprint.0),
                rotate_at: rotate_at.as_millis(),
            }),
            key: None,
        };
        // Names, numbers and lists always serialize.
        let public = serde_json::to_vec_pretty(&text).unwrap_or_default();
        text.key = pem.as_ref().map(|pem| pem.lines().collect());
        // Room for all of it: a buffer that grows leaves copies behind.
        let room = public.len() + 2 * pem.as_ref().map_or(0, |pem| pem.len()) + 256;
        let mut encoded = Zeroizing::new(Vec::with_capacity(room));
        let _ = serde_json::to_writer_pretty(&mut *encoded, &text);
        encoded
    }

    /// Decodes a record written by [`encode`](Self::encode). If the record has a key, the record itself must contain
    /// the key.
    ///
    /// # Errors
    /// [`RecordError`]: the record is damaged, or of another format version, or its key stays elsewhere.
    pub fn decode(encoded: &[u8]) -> Result<Self, RecordError> {
        Self::decode_with(encoded, None)
    }

    /// Decodes a record written by [`encode`](Self::encode). `keys` finds a key that stays elsewhere.
    ///
    /// # Errors
    /// [`RecordError`]: the record is damaged, or of another format version, or its key is not found.
    pub fn decode_with(encoded: &[u8], keys: Option<&dyn KeySource>) -> Result<Self, RecordError> {
        let Version { version } = serde_json::from_slice(encoded).map_err(RecordError::text)?;
        if version != VERSION {
            return Err(RecordError::Version { version });
        }
        let text: Text<'_> = serde_json::from_slice(encoded).map_err(RecordError::text)?;
        let refusal = text.refusal.map(|RefusalText { reason, failures, retry_at }| {
            // Only refusals have a backoff that outlives a restart.
            let failure = disk_name::failure_named(&reason).filter(|failure| failure.is_refusal());
            let failure = failure.ok_or(RecordError::Reason)?;
            Ok(Refusal { failure, failures, retry_at: UnixTime::from_millis(retry_at) })
        });
        let key = text.key.map(|lines| {
            let mut pem = Zeroizing::new(String::with_capacity(lines.iter().map(|line| line.len() + 1).sum()));
            lines.iter().for_each(|line| pem.extend([line, "\n"]));
            let key = match keys {
                Some(keys) => KeyPair::from_pem_with(pem.as_bytes(), |reference| keys.find(reference)),
                None => KeyPair::from_pem(pem.as_bytes()),
            };
            key.map(Arc::new).map_err(RecordError::Key)
        });
        let key = key.transpose()?;
        let template = Template::new(text.common_name)
            .with_organizations(text.organizations)
            .with_dns_names(text.dns_names)
            .with_ip_addresses(text.ip_addresses);
        let pending = Pending {
            template: Arc::new(text.rare_names.added_to(template)),
            key: if key.is_some() { Key::Pending } else { Key::New },
            submitted: UnixTime::from_millis(text.submitted),
            budget_whole: UnixTime::from_millis(text.budget_whole),
            refusal: refusal.transpose()?,
        };
        let renewal = text.renewal.map(RenewalText::read).transpose()?;
        let outdated = text.outdated.as_deref().map(fingerprint).transpose()?;
        // An unknown name, of another version, is harmless: the field is for people only.
        let turned_down = text.turned_down.as_deref().and_then(disk_name::failure_named);
        let (server, signer_name, request_name) = (text.server, text.signer_name, text.request_name);
        let request_digest = text.request_digest;
        Ok(Self { server, signer_name, request_digest, request_name, pending, renewal, outdated, turned_down, key })
    }

    /// True if a request with another digest than `wanted` has led to the certificate with this fingerprint.
    pub(crate) fn outdates(&self, fingerprint: Fingerprint, wanted: Option<&str>) -> bool {
        self.outdated == Some(fingerprint) || is_another(self.request_digest.as_deref(), wanted)
    }
}

/// True if two digests of requests differ. A missing digest is no evidence of a change: older versions left none.
pub(super) fn is_another(digest: Option<&str>, wanted: Option<&str>) -> bool {
    digest.zip(wanted).is_some_and(|(digest, wanted)| digest != wanted)
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

/// The JSON of a record. Times are milliseconds since 1970, which is the resolution of the machine.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Text<'a> {
    version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    signer_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_digest: Option<String>,
    #[serde(rename = "csrName")]
    request_name: String,
    common_name: String,
    organizations: Vec<String>,
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "RareNames::is_empty")]
    rare_names: RareNames,
    submitted: i64,
    budget_whole: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<RefusalText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outdated: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    turned_down: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renewal: Option<RenewalText>,
    /// The lines of the PEM text of the key or, if the key stays elsewhere, of its reference. No line contains a
    /// character that JSON escapes, so that serde borrows the lines when it reads a record, and makes no copy of the
    /// key.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    key: Option<Vec<&'a str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RefusalText {
    reason: String,
    failures: u32,
    retry_at: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RenewalText {
    fingerprint: String,
    rotate_at: i64,
}

impl RenewalText {
    fn read(self) -> Result<Renewal, RecordError> {
        let fingerprint = fingerprint(&self.fingerprint)?;
        Ok(Renewal { fingerprint, rotate_at: UnixTime::from_millis(self.rotate_at) })
    }
}

fn fingerprint(text: &str) -> Result<Fingerprint, RecordError> {
    let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(Fingerprint).ok_or(RecordError::Fingerprint)
}

/// Error of a record that cannot be decoded. Shows nothing of the record's contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The text is not JSON, or has other fields than a record.
    #[error("{what} (line {line}, column {column})")]
    Text {
        /// The problem with the text, as a clause.
        what: &'static str,
        /// Line of the problem, from 1.
        line: usize,
        /// Column in that line.
        column: usize,
    },
    /// The record has another format version than the one that this version of perennial reads.
    #[error("its format version is {version}, and this perennial reads version {VERSION}")]
    Version {
        /// The format version of the record.
        version: u64,
    },
    /// The record contains a refusal for a reason that this version of perennial does not know.
    #[error("it names a reason of refusal that this version of perennial does not know")]
    Reason,
    /// The fingerprint of a certificate in the record is malformed.
    #[error("the fingerprint in it is not 64 hexadecimal digits")]
    Fingerprint,
    /// The record's key cannot be read.
    #[error("its private key cannot be used: {0}")]
    Key(#[source] KeyError),
}

impl RecordError {
    /// Makes an error without serde's message, which may quote the record, and so its key.
    fn text(error: serde_json::Error) -> Self {
        let what = match error.classify() {
            Category::Eof => "it ends too early",
            Category::Data => "a field is missing, unknown or of the wrong kind",
            Category::Syntax | Category::Io => "it is not JSON",
        };
        Self::Text { what, line: error.line(), column: error.column() }
    }
}
