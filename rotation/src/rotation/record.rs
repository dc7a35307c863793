//! What a rotation leaves to its next start: what was asked for, with which key, and what came of it.

use std::net::IpAddr;
use std::sync::Arc;

use perennial::{Failure, Key, Pending, Refusal, Template, UnixTime};
use perennial_pki::{KeyError, KeyPair};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use zeroize::Zeroizing;

use crate::disk_name;

/// What a rotation leaves to its next start. It holds a private key: keep it as safe as that.
///
/// The request itself is not kept, but what it is made of: names and key. Signed again it is the same to whoever asks
/// for it: the object's name is derived from key, names and usages, and an object found under that name is compared by
/// key, subject and names, never by its signature, which for ECDSA is another one each time.
#[derive(Clone, Debug)]
pub struct Record {
    /// Endpoint of the signer, as it was configured: the URL of an API server, for example. `None` in a record of an older
    /// version.
    pub server: Option<String>,
    /// Who was asked.
    pub signer_name: String,
    /// The name of the request object.
    pub request_name: String,
    /// The request, the budget and the refusal.
    pub pending: Pending,
    /// The signer accepted the credential for none of the requests so far: [`Failure::Unauthorized`] or
    /// [`Failure::Forbidden`]. For people; a restart asks again at once.
    pub turned_down: Option<Failure>,
    /// The key, if it may be used once more ([`Key::Pending`]).
    pub key: Option<Arc<KeyPair>>,
}

const VERSION: u64 = 1;

impl Record {
    /// As JSON. Wiped on drop.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let Pending { template, submitted, budget_whole, refusal, .. } = &self.pending;
        let pem = self.key.as_ref().map(|key| key.to_pem());
        let mut text = Text {
            version: VERSION,
            server: self.server.clone(),
            signer_name: self.signer_name.clone(),
            request_name: self.request_name.clone(),
            common_name: template.common_name().to_owned(),
            organizations: template.organizations().to_vec(),
            dns_names: template.dns_names().to_vec(),
            ip_addresses: template.ip_addresses().to_vec(),
            submitted: submitted.as_millis(),
            budget_whole: budget_whole.as_millis(),
            refusal: refusal.map(|Refusal { failure, failures, retry_at }| RefusalText {
                reason: disk_name::failure(failure),
                failures,
                retry_at: retry_at.as_millis(),
            }),
            turned_down: self.turned_down.map(disk_name::failure),
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

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`RecordError`]: it is damaged, or of a version of perennial that is not this one.
    pub fn decode(encoded: &[u8]) -> Result<Self, RecordError> {
        let Version { version } = serde_json::from_slice(encoded).map_err(RecordError::text)?;
        if version != VERSION {
            return Err(RecordError::Version { version });
        }
        let text: Text<'_> = serde_json::from_slice(encoded).map_err(RecordError::text)?;
        let refusal = text.refusal.map(|RefusalText { reason, failures, retry_at }| {
            // Only refusals are remembered: the rest may be asked again soon.
            let failure = disk_name::failure_named(&reason).filter(|failure| failure.is_refusal());
            let failure = failure.ok_or(RecordError::Reason)?;
            Ok(Refusal { failure, failures, retry_at: UnixTime::from_millis(retry_at) })
        });
        let key = text.key.map(|lines| {
            let mut pem = Zeroizing::new(String::with_capacity(lines.iter().map(|line| line.len() + 1).sum()));
            lines.iter().for_each(|line| pem.extend([line, "\n"]));
            KeyPair::from_pem(pem.as_bytes()).map(Arc::new).map_err(RecordError::Key)
        });
        let key = key.transpose()?;
        let template = Template::new(text.common_name)
            .with_organizations(text.organizations)
            .with_dns_names(text.dns_names)
            .with_ip_addresses(text.ip_addresses);
        let pending = Pending {
            template: Arc::new(template),
            key: if key.is_some() { Key::Pending } else { Key::New },
            submitted: UnixTime::from_millis(text.submitted),
            budget_whole: UnixTime::from_millis(text.budget_whole),
            refusal: refusal.transpose()?,
        };
        // A name of another version changes nothing.
        let turned_down = text.turned_down.as_deref().and_then(disk_name::failure_named);
        let (server, signer_name, request_name) = (text.server, text.signer_name, text.request_name);
        Ok(Self { server, signer_name, request_name, pending, turned_down, key })
    }
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

/// Times are milliseconds since 1970, so that every one there is comes back as it was.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Text<'a> {
    version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    signer_name: String,
    #[serde(rename = "csrName")]
    request_name: String,
    common_name: String,
    organizations: Vec<String>,
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
    submitted: i64,
    budget_whole: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<RefusalText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    turned_down: Option<String>,
    /// The lines of a PEM text: there is nothing in them to be escaped, so reading them makes no copies.
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

/// Why a record is of no use. Shows nothing of its contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is not JSON, or not the JSON of a record.
    #[error("{what} (line {line}, column {column})")]
    Text {
        /// What is wrong.
        what: &'static str,
        /// Where.
        line: usize,
        /// Where in it.
        column: usize,
    },
    /// It was written by another version of perennial.
    #[error("it is of version {version}; this is version {VERSION}")]
    Version {
        /// The version of the record.
        version: u64,
    },
    /// The reason of its refusal is none we know.
    #[error("the reason of the refusal is unknown")]
    Reason,
    /// Its key cannot be read.
    #[error("its key: {0}")]
    Key(#[source] KeyError),
}

impl RecordError {
    /// serde's own words may quote what it read.
    fn text(error: serde_json::Error) -> Self {
        let what = match error.classify() {
            Category::Eof => "it ends too early",
            Category::Data => "a field is missing, unknown or of the wrong kind",
            Category::Syntax | Category::Io => "it is not JSON",
        };
        Self::Text { what, line: error.line(), column: error.column() }
    }
}
