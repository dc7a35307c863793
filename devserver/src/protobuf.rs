//! Reading the protobuf encoding of the few objects clients send: `kubectl` and kubelets send nothing else.
//!
//! Only bodies of requests are read; answers are JSON, which every client accepts as well.

use perennial::UnixTime;

use super::rfc3339;
use perennial_kubernetes::objects::{CertificateSigningRequest, Condition, CsrSpec, CsrStatus, ObjectMeta};

/// First bytes of every Kubernetes object in protobuf.
const MAGIC: &[u8] = b"k8s\0";

/// An object in its envelope (`runtime.Unknown`).
pub(super) struct Envelope<'a> {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) raw: &'a [u8],
}

/// Something that can be read from protobuf.
pub(super) trait Message: Default {
    /// Takes one field in; unknown ones are passed over.
    fn field(&mut self, number: u64, value: Value<'_>) -> Result<(), Malformed>;

    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut message = Self::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, value) = read_field(&mut rest)?;
            message.field(number, value)?;
        }
        Ok(message)
    }
}

/// A field's value as the wire tells it.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Floating point, which none of our objects has.
    Fixed,
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        if let Value::Bytes(bytes) = self { Ok(bytes) } else { Err(Malformed) }
    }

    pub(super) fn text(self) -> Result<String, Malformed> {
        std::str::from_utf8(self.bytes()?).map(Into::into).map_err(|_| Malformed)
    }

    fn number(self) -> Result<u64, Malformed> {
        if let Value::Number(number) = self { Ok(number) } else { Err(Malformed) }
    }

    pub(super) fn message<T: Message>(self) -> Result<T, Malformed> {
        T::read(self.bytes()?)
    }
}

/// The bytes are not the protobuf encoding of the object expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf")]
pub(super) struct Malformed;

pub(super) fn open(body: &[u8]) -> Result<Envelope<'_>, Malformed> {
    let mut rest = body.strip_prefix(MAGIC).ok_or(Malformed)?;
    let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    while !rest.is_empty() {
        match read_field(&mut rest)? {
            (1, value) => {
                let TypeMeta { api_version, kind } = value.message()?;
                (envelope.api_version, envelope.kind) = (api_version, kind);
            }
            (2, value) => envelope.raw = value.bytes()?,
            _ => {}
        }
    }
    Ok(envelope)
}

fn read_field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Value<'a>), Malformed> {
    let key = read_varint(rest)?;
    let value = match key & 7 {
        0 => Value::Number(read_varint(rest)?),
        1 => take(rest, 8).map(|_| Value::Fixed)?,
        2 => {
            let length = usize::try_from(read_varint(rest)?).map_err(|_| Malformed)?;
            Value::Bytes(take(rest, length)?)
        }
        5 => take(rest, 4).map(|_| Value::Fixed)?,
        _ => return Err(Malformed),
    };
    Ok((key >> 3, value))
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

#[derive(Default)]
struct TypeMeta {
    api_version: String,
    kind: String,
}

impl Message for TypeMeta {
    fn field(&mut self, number: u64, value: Value<'_>) -> Result<(), Malformed> {
        match number {
            1 => self.api_version = value.text()?,
            2 => self.kind = value.text()?,
            _ => {}
        }
        Ok(())
    }
}

impl Message for CertificateSigningRequest {
    fn field(&mut self, number: u64, value: Value<'_>) -> Result<(), Malformed> {
        match number {
            1 => self.metadata = value.message()?,
            2 => self.spec = value.message()?,
            3 => self.status = value.message()?,
            _ => {}
        }
        Ok(())
    }
}

impl Message for ObjectMeta {
    fn field(&mut self, number: u64, value: Value<'_>) -> Result<(), Malformed> {
        match number {
            1 => self.name = value.text()?,
            2 => self.generate_name = value.text()?,
            5 => self.uid = value.text()?,
            6 => self.resource_version = value.text()?,
            8 => self.creation_timestamp = value.message::<Time>()?.text(),
            11 => insert(&mut self.labels, value)?,
            12 => insert(&mut self.annotations, value)?,
            _ => {}
        }
        Ok(())
    }
}

impl Message for CsrSpec {
    fn field(&mut self, number: u64, value: Value<'_>) -> Result<(), Malformed> {
        match number {
            1 => self.request = value.bytes()?.to_vec(),
            5 => self.usages.push(value.text()?),
            7 => self.signer_name = value.text()?,
            // Negative numbers are sign-extended to 64 bits on the wire.
            8 => self.expiration_seconds = Some(value.number()? as i32),
            // Who asked is the server's to say.
            _ => {}
        }
        Ok(())
    }
}

impl Message for CsrStatus {
    fn field(&mut self, number: u64, value: Value<'_>) -> Result<(), Malformed> {
        match number {
            1 => self.conditions.push(value.message()?),
            2 => self.certificate = value.bytes()?.to_vec(),
            _ => {}
        }
        Ok(())
    }
}

impl Message for Condition {
    fn field(&mut self, number: u64, value: Value<'_>) -> Result<(), Malformed> {
        match number {
            1 => self.type_ = value.text()?,
            2 => self.reason = value.text()?,
            3 => self.message = value.text()?,
            4 => self.last_update_time = value.message::<Time>()?.text(),
            5 => self.last_transition_time = value.message::<Time>()?.text(),
            6 => self.status = value.text()?,
            _ => {}
        }
        Ok(())
    }
}

#[derive(Default)]
struct Time {
    seconds: Option<i64>,
}

impl Time {
    /// Go's zero time is written as no field at all.
    fn text(&self) -> Option<String> {
        self.seconds.map(|seconds| rfc3339(UnixTime::from_secs(seconds)))
    }
}

impl Message for Time {
    fn field(&mut self, number: u64, value: Value<'_>) -> Result<(), Malformed> {
        if number == 1 {
            self.seconds = Some(value.number()? as i64);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Entry {
    key: String,
    value: String,
}

impl Message for Entry {
    fn field(&mut self, number: u64, value: Value<'_>) -> Result<(), Malformed> {
        match number {
            1 => self.key = value.text()?,
            2 => self.value = value.text()?,
            _ => {}
        }
        Ok(())
    }
}

fn insert(map: &mut std::collections::BTreeMap<String, String>, value: Value<'_>) -> Result<(), Malformed> {
    let Entry { key, value } = value.message()?;
    map.insert(key, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What kubectl 1.32 sent to approve the object it had read just before.
    const APPROVAL: &[u8] = include_bytes!("../tests/server/support/kubectl-approves.pb");
    const READ: &str = include_str!("../tests/server/support/kubectl-read.json");

    #[test]
    fn what_kubectl_sends_is_what_it_had_read_and_its_approval() {
        let envelope = open(APPROVAL).unwrap();
        assert_eq!(
            (envelope.api_version.as_str(), envelope.kind.as_str()),
            (perennial_kubernetes::objects::API_VERSION, "CertificateSigningRequest")
        );
        let sent = CertificateSigningRequest::read(envelope.raw).unwrap();
        let read: CertificateSigningRequest = serde_json::from_str(READ).unwrap();

        assert_eq!(sent.metadata, read.metadata);
        assert_eq!(sent.spec.request, read.spec.request);
        assert_eq!(sent.spec.usages, read.spec.usages);
        assert_eq!(sent.spec.signer_name, read.spec.signer_name);
        assert_eq!(sent.spec.expiration_seconds, read.spec.expiration_seconds);
        let [approved] = sent.status.conditions.as_slice() else { panic!("{:?}", sent.status) };
        assert_eq!((approved.type_.as_str(), approved.status.as_str()), ("Approved", "True"));
        assert_eq!(approved.reason, "KubectlApprove");
        assert_eq!(approved.message, "This CSR was approved by kubectl certificate approve.");
        assert!(approved.last_update_time.is_some());
        assert_eq!(approved.last_transition_time, None, "Go's zero time is no time");
    }

    #[test]
    fn damaged_bytes_are_malformed_and_never_worse() {
        for length in 0..APPROVAL.len() {
            let _ = open(&APPROVAL[..length]).and_then(|envelope| CertificateSigningRequest::read(envelope.raw));
        }
        for index in 0..APPROVAL.len() {
            let mut damaged = APPROVAL.to_vec();
            damaged[index] ^= 0xff;
            let _ = open(&damaged).and_then(|envelope| CertificateSigningRequest::read(envelope.raw));
        }
        assert!(open(b"{}").is_err());
        assert!(open(&[MAGIC, &[0xff; 11]].concat()).is_err(), "a number of more than 64 bits");
        assert!(open(&[MAGIC, &[0x0a, 0x7f]].concat()).is_err(), "a length beyond the end");
    }
}
