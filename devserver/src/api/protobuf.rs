//! Decodes protobuf to JSON, for the few kinds of objects that `kubectl` and kubelets send in that encoding.
//!
//! Only bodies of requests are protobuf; answers are JSON, which every client accepts as well.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial::UnixTime;
use serde_json::{Map, Value, json};

use super::resource::Resource;
use super::rfc3339;

/// First bytes of every Kubernetes object in protobuf.
const MAGIC: &[u8] = b"k8s\0";

/// The fields of a protobuf message that this server reads, each with its number, its name in JSON and its type. Other
/// fields are skipped.
pub(super) type Fields = &'static [(u64, &'static str, Type)];

pub(super) enum Type {
    Text,
    Bytes,
    /// An `int32`. A negative number is sign-extended to 64 bits on the wire.
    Number,
    Time,
    Message(Fields),
    List(&'static Self),
    /// An entry of a map from text to text.
    Entry,
}

use Type::{Bytes, Entry, List, Message, Number, Text, Time};

/// The fields of the objects of `resource`; `None` if the server reads such objects only as JSON.
pub(super) fn fields(resource: Resource) -> Option<Fields> {
    match resource {
        Resource::CertificateSigningRequests => Some(CSR),
        Resource::ClusterTrustBundles => Some(TRUST_BUNDLE),
        Resource::PodCertificateRequests => Some(POD_REQUEST),
        Resource::Nodes | Resource::Pods | Resource::ServiceAccounts => None,
    }
}

const CSR: Fields =
    &[(1, "metadata", Message(METADATA)), (2, "spec", Message(CSR_SPEC)), (3, "status", Message(CSR_STATUS))];
const METADATA: Fields = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (8, "creationTimestamp", Time),
    (11, "labels", Entry),
    (12, "annotations", Entry),
    (13, "ownerReferences", List(&Message(OWNER))),
];
const OWNER: Fields = &[(1, "kind", Text), (3, "name", Text), (4, "uid", Text), (5, "apiVersion", Text)];
/// Fields of a request's `spec`, except user name and groups, which the server sets itself.
const CSR_SPEC: Fields =
    &[(1, "request", Bytes), (5, "usages", List(&Text)), (7, "signerName", Text), (8, "expirationSeconds", Number)];
const CSR_STATUS: Fields = &[(1, "conditions", List(&Message(CONDITION))), (2, "certificate", Bytes)];
const TRUST_BUNDLE: Fields =
    &[(1, "metadata", Message(METADATA)), (2, "spec", Message(&[(1, "signerName", Text), (2, "trustBundle", Text)]))];
const POD_REQUEST: Fields = &[
    (1, "metadata", Message(METADATA)),
    (2, "spec", Message(POD_REQUEST_SPEC)),
    (3, "status", Message(POD_REQUEST_STATUS)),
];
const POD_REQUEST_SPEC: Fields = &[
    (1, "signerName", Text),
    (2, "podName", Text),
    (3, "podUID", Text),
    (4, "serviceAccountName", Text),
    (5, "serviceAccountUID", Text),
    (6, "nodeName", Text),
    (7, "nodeUID", Text),
    (8, "maxExpirationSeconds", Number),
    (9, "pkixPublicKey", Bytes),
    (10, "proofOfPossession", Bytes),
    (11, "unverifiedUserAnnotations", Entry),
    (12, "stubPKCS10Request", Bytes),
];
const POD_REQUEST_STATUS: Fields = &[
    (1, "conditions", List(&Message(POD_REQUEST_CONDITION))),
    (2, "certificateChain", Text),
    (4, "notBefore", Time),
    (5, "beginRefreshAt", Time),
    (6, "notAfter", Time),
];
/// A `metav1.Condition`, which differs from [`CONDITION`].
const POD_REQUEST_CONDITION: Fields = &[
    (1, "type", Text),
    (2, "status", Text),
    (4, "lastTransitionTime", Time),
    (5, "reason", Text),
    (6, "message", Text),
];
const CONDITION: Fields = &[
    (1, "type", Text),
    (2, "reason", Text),
    (3, "message", Text),
    (4, "lastUpdateTime", Time),
    (5, "lastTransitionTime", Time),
    (6, "status", Text),
];
pub(super) const DELETE_OPTIONS: Fields =
    &[(2, "preconditions", Message(&[(1, "uid", Text), (2, "resourceVersion", Text)])), (5, "dryRun", List(&Text))];
/// Fields of a SelfSubjectReview: this server reads none.
pub(super) const REVIEW: Fields = &[];
pub(super) const ACCESS_REVIEW: Fields = &[(2, "spec", Message(ACCESS_SPEC))];
const ACCESS_SPEC: Fields = &[
    (1, "resourceAttributes", Message(RESOURCE)),
    (2, "nonResourceAttributes", Message(&[(1, "path", Text), (2, "verb", Text)])),
];
const RESOURCE: Fields = &[
    (1, "namespace", Text),
    (2, "verb", Text),
    (3, "group", Text),
    (5, "resource", Text),
    (6, "subresource", Text),
    (7, "name", Text),
];
/// Fields of the envelope around each object (`runtime.Unknown`), except the field [`RAW`].
const ENVELOPE: Fields = &[(1, "type", Message(&[(1, "apiVersion", Text), (2, "kind", Text)]))];
/// Number of the field of the envelope that contains the bytes of the object.
const RAW: u64 = 2;

/// Error of bytes that are not the protobuf encoding of the expected object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf")]
pub(super) struct Malformed;

/// Reads an object and the envelope around it. Returns the object as JSON, with `apiVersion` and `kind` from the
/// envelope.
pub(super) fn read(body: &[u8], fields: Fields) -> Result<Value, Malformed> {
    let body = body.strip_prefix(MAGIC).ok_or(Malformed)?;
    let mut raw: &[u8] = &[];
    let mut rest = body;
    while !rest.is_empty() {
        if let (RAW, field) = read_field(&mut rest)? {
            raw = field.bytes()?;
        }
    }
    let mut object = read_message(raw, fields)?;
    if let Some(Value::Object(mut kind)) = read_message(body, ENVELOPE)?.remove("type") {
        object.append(&mut kind);
    }
    Ok(object.into())
}

fn read_message(mut rest: &[u8], fields: Fields) -> Result<Map<String, Value>, Malformed> {
    let mut message = Map::new();
    while !rest.is_empty() {
        let (number, field) = read_field(&mut rest)?;
        let Some((_, name, kind)) = fields.iter().find(|(known, ..)| *known == number) else { continue };
        let value = read_value(field, kind)?;
        match kind {
            List(_) => {
                if let Value::Array(items) = message.entry(*name).or_insert_with(|| json!([])) {
                    items.push(value);
                }
            }
            Entry => {
                let key = value["key"].as_str().unwrap_or_default();
                message.entry(*name).or_insert_with(|| json!({}))[key] =
                    value["value"].as_str().unwrap_or_default().into();
            }
            Text | Bytes | Number | Time | Message(_) => drop(message.insert((*name).to_owned(), value)),
        }
    }
    Ok(message)
}

fn read_value(field: Field<'_>, kind: &Type) -> Result<Value, Malformed> {
    Ok(match kind {
        Text => field.text()?.into(),
        Bytes => STANDARD.encode(field.bytes()?).into(),
        Number => field.number()?.cast_signed().into(),
        Time => {
            let time = read_message(field.bytes()?, &[(1, "seconds", Number)])?;
            // Go encodes its zero time without the field.
            let seconds = time.get("seconds").and_then(Value::as_i64);
            json!(seconds.map(|seconds| rfc3339(UnixTime::from_secs(seconds))))
        }
        Message(fields) => read_message(field.bytes()?, fields)?.into(),
        Entry => read_message(field.bytes()?, &[(1, "key", Text), (2, "value", Text)])?.into(),
        List(kind) => read_value(field, kind)?,
    })
}

/// A field's value on the wire.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A number of fixed width, 4 or 8 bytes. This server reads no field of this kind.
    Fixed,
}

impl<'a> Field<'a> {
    fn bytes(self) -> Result<&'a [u8], Malformed> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Malformed) }
    }

    fn text(self) -> Result<&'a str, Malformed> {
        str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    fn number(self) -> Result<u64, Malformed> {
        if let Self::Number(number) = self { Ok(number) } else { Err(Malformed) }
    }
}

fn read_field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Field<'a>), Malformed> {
    let key = read_varint(rest)?;
    let field = match key & 7 {
        0 => Field::Number(read_varint(rest)?),
        1 => take(rest, 8).map(|_| Field::Fixed)?,
        2 => {
            let length = usize::try_from(read_varint(rest)?).map_err(|_| Malformed)?;
            Field::Bytes(take(rest, length)?)
        }
        5 => take(rest, 4).map(|_| Field::Fixed)?,
        _ => return Err(Malformed),
    };
    Ok((key >> 3, field))
}

fn read_varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = left;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use perennial_kubernetes::objects::CertificateSigningRequest;

    use super::*;

    /// The body that kubectl 1.32 sent to approve the object in [`READ`].
    const APPROVAL: &[u8] = include_bytes!("../../tests/server/support/kubectl-approves.pb");
    const READ: &str = include_str!("../../tests/server/support/kubectl-read.json");

    #[test]
    fn protobuf_approval_of_kubectl_decodes_to_object_with_condition() {
        let sent = read(APPROVAL, CSR).unwrap();
        let sent: CertificateSigningRequest = serde_json::from_value(sent).unwrap();
        assert_eq!(
            (sent.api_version.as_str(), sent.kind.as_str()),
            (perennial_kubernetes::objects::API_VERSION, "CertificateSigningRequest")
        );
        let before: CertificateSigningRequest = serde_json::from_str(READ).unwrap();

        assert_eq!(sent.metadata, before.metadata);
        assert_eq!(sent.spec.request, before.spec.request);
        assert_eq!(sent.spec.usages, before.spec.usages);
        assert_eq!(sent.spec.signer_name, before.spec.signer_name);
        assert_eq!(sent.spec.expiration_seconds, before.spec.expiration_seconds);
        let [approved] = sent.status.conditions.as_slice() else { panic!("{:?}", sent.status) };
        assert_eq!((approved.type_.as_str(), approved.status.as_str()), ("Approved", "True"));
        assert_eq!(approved.reason, "KubectlApprove");
        assert_eq!(approved.message, "This CSR was approved by kubectl certificate approve.");
        assert!(approved.last_update_time.is_some());
        assert_eq!(approved.last_transition_time, None, "Go's zero time is no time");
    }

    #[test]
    fn decoding_damaged_bytes_never_panics() {
        for length in 0..APPROVAL.len() {
            let _ = read(&APPROVAL[..length], CSR);
        }
        for index in 0..APPROVAL.len() {
            let mut damaged = APPROVAL.to_vec();
            damaged[index] ^= 0xff;
            let _ = read(&damaged, CSR);
        }
        assert!(read(b"{}", CSR).is_err());
        assert!(read(&[MAGIC, &[0xff; 11]].concat(), CSR).is_err(), "a number of more than 64 bits");
        assert!(read(&[MAGIC, &[0x0a, 0x7f]].concat(), CSR).is_err(), "a length beyond the end");
    }
}
