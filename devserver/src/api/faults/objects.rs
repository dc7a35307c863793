//! Faults in the objects of answers and watch events.

use std::time::Duration;

use perennial::{Template, UnixTime, Validity};
use perennial_pki::{Chain, KeyAlgorithm, KeyPair, KeyUsage, RequestFacts, Usage, certificate_request, read_request};
use serde_json::Value;

use super::fault::{CertificateFault, EventFault, Fault, ObjectFault};
use crate::Api;
use crate::api::controllers::condition;
use crate::api::message::to_json;
use crate::api::resource::Resource;
use crate::api::status;
use crate::api::watch::{bookmark, encode};
use crate::authority::Authority;
use perennial_kubernetes::objects::CertificateSigningRequest;

const HOUR: Duration = Duration::from_secs(3600);

/// State that an [`EventFault`] keeps between two events of a watch.
#[derive(Debug, Default)]
pub(crate) struct EventFaultState {
    /// The event that [`EventFault::Reordered`] withholds, as a line of JSON; `None` while no event is withheld.
    withheld: Option<Vec<u8>>,
}

impl EventFaultState {
    /// Applies the fault to the event in `line`. Returns the lines to send instead of `line`, and true if the watch
    /// ends after these lines.
    pub(crate) fn spoil(&mut self, fault: &Fault, api: &mut Api, line: Vec<u8>, now: UnixTime) -> (Vec<Vec<u8>>, bool) {
        let Fault::Events(wrong) = fault else {
            return (vec![event(&line, |object| spoil(fault, api, object, now)).unwrap_or(line)], false);
        };
        match wrong {
            EventFault::Duplicated => (vec![line.clone(), line], false),
            EventFault::Reordered => match self.withheld.take() {
                Some(before) => (vec![line, before], false),
                None => {
                    self.withheld = Some(line);
                    (Vec::new(), false)
                }
            },
            EventFault::OnlyBookmarks => {
                let event: Value = serde_json::from_slice(&line).unwrap_or_default();
                let kind = event["object"]["kind"].as_str().and_then(Resource::of_kind);
                let resource = kind.unwrap_or(Resource::CertificateSigningRequests);
                (vec![encode("BOOKMARK", &bookmark(resource, api.store.version(), false))], false)
            }
            EventFault::Expired => (vec![encode("ERROR", &to_json(&status::expired(1, api.store.version())))], true),
            EventFault::Unreadable => (vec![b"{\"type\":\"MODIFIED\",\"object\":{]\n".to_vec()], false),
            EventFault::Deleted => {
                let event: Value = serde_json::from_slice(&line).unwrap_or_default();
                (vec![encode("DELETED", &to_json(&event["object"]))], false)
            }
        }
    }
}

/// Applies the fault to the request object in `body`. Returns the changed body; `None` if `body` is no request object,
/// or the fault does not change objects.
pub(crate) fn spoil_answer(fault: &Fault, api: &mut Api, body: &[u8], now: UnixTime) -> Option<Vec<u8>> {
    let object: CertificateSigningRequest = serde_json::from_slice(body).ok()?;
    spoil(fault, api, object, now).map(|object| to_json(&object))
}

fn event(
    line: &[u8],
    spoil: impl FnOnce(CertificateSigningRequest) -> Option<CertificateSigningRequest>,
) -> Option<Vec<u8>> {
    let mut event: Value = serde_json::from_slice(line).ok()?;
    let object = serde_json::from_value(event.get_mut("object")?.take()).ok()?;
    Some(encode(event["type"].as_str()?, &to_json(&spoil(object)?)))
}

/// The object with the fault applied; `None` if the fault concerns no objects, or the object is not a request.
fn spoil(
    fault: &Fault,
    api: &mut Api,
    mut object: CertificateSigningRequest,
    now: UnixTime,
) -> Option<CertificateSigningRequest> {
    // A bookmark has the kind of a request, but an empty spec.
    if object.kind != Resource::CertificateSigningRequests.kind() || object.spec.request.is_empty() {
        return None;
    }
    let decided = |kind| vec![condition(kind, "InjectedFault", "injected fault of the development server", now)];
    match fault {
        Fault::Object(ObjectFault::UidChanged) => object.metadata.uid = api.random.uid(),
        Fault::Object(ObjectFault::Replaced) => object.spec.signer_name = "example.com/another".into(),
        Fault::Object(ObjectFault::NeverIssued) => {
            object.status.conditions = decided("Approved");
            object.status.certificate.clear();
        }
        Fault::Object(ObjectFault::Denied) => object.status.conditions = decided("Denied"),
        Fault::Object(ObjectFault::Failed) => {
            object.status.conditions = decided("Approved");
            object.status.conditions.extend(decided("Failed"));
            object.status.certificate.clear();
        }
        Fault::Certificate(wrong) => {
            let request = read_request(&object.spec.request).ok()?;
            object.status.certificate = certificate(*wrong, api, &request, &object.spec.usages, now)?;
            object.status.conditions = decided("Approved");
        }
        _ => return None,
    }
    Some(object)
}

/// Issues a certificate for `request`, with the fault `wrong`. Returns the chain in PEM; `None` if the certificate
/// cannot be issued.
fn certificate(
    wrong: CertificateFault,
    api: &mut Api,
    request: &RequestFacts,
    usages: &[String],
    now: UnixTime,
) -> Option<Vec<u8>> {
    let serves = usages.iter().any(|usage| usage == "server auth");
    let usage = match (serves, wrong == CertificateFault::OtherUsage) {
        (true, false) | (false, true) => Usage::ServerAuth,
        (true, true) | (false, false) => Usage::ClientAuth,
    };
    let (from, to) = match wrong {
        CertificateFault::Expired => (now.before(4 * HOUR), now.before(2 * HOUR)),
        CertificateFault::NotYetValid => (now.after(2 * HOUR), now.after(26 * HOUR)),
        // Backdated by five minutes, as a cluster's signer does.
        _ => (now.before(HOUR / 12), now.after(24 * HOUR)),
    };
    let validity = Validity::new(from, to).ok()?;
    let request = faulty_request(wrong, request)?;
    let Api { authority, random, .. } = api;
    let other = match wrong {
        CertificateFault::OtherAuthority => Some(Authority::generate(random, now, 48 * HOUR).ok()?),
        _ => None,
    };
    let signer = other.as_ref().unwrap_or(authority);
    let chain = signer.certify(&request, validity, &[KeyUsage::DigitalSignature], &[usage], random).ok()?;
    Some(faulty_pem(wrong, &chain, authority))
}

/// A changed copy of `request`: a certificate that is issued for the copy has the fault `wrong`. Only the faults in the
/// key and in the names change the copy. `None` if no key or CSR can be generated.
fn faulty_request(wrong: CertificateFault, request: &RequestFacts) -> Option<RequestFacts> {
    let mut request = request.clone();
    match wrong {
        CertificateFault::OtherKey => {
            request.public_key_der = KeyPair::generate(KeyAlgorithm::EcdsaP256).ok()?.public_key_der().to_vec();
        }
        CertificateFault::OtherName => request.subject_der = subject(&Template::node("another-node"))?,
        CertificateFault::ExtraOrganization => {
            let template = Template::new(&*request.common_name).with_organizations(request.organizations.clone());
            request.subject_der = subject(&template.with_organizations(["system:masters"]))?;
        }
        CertificateFault::ExtraUri => request.names.uris.push("spiffe://example.org/admin".to_owned()),
        CertificateFault::WithoutNames => {
            request.names.dns_names.clear();
            request.names.ip_addresses.clear();
        }
        _ => {}
    }
    Some(request)
}

fn subject(template: &Template) -> Option<Vec<u8>> {
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).ok()?;
    let request = certificate_request(template, &key).ok()?;
    Some(read_request(request.pem.as_bytes()).ok()?.subject_der)
}

fn faulty_pem(wrong: CertificateFault, chain: &Chain, authority: &Authority) -> Vec<u8> {
    let pem = chain.pem();
    match wrong {
        CertificateFault::EmptyChain => "there is no certificate in here\n".into(),
        CertificateFault::WrongOrder => [authority.certificate_pem(), &pem].concat().into(),
        CertificateFault::TrailingText => format!("{pem}and here ends the certificate\n").into(),
        CertificateFault::Truncated => pem.as_bytes()[..pem.len() / 2].into(),
        _ => pem.into(),
    }
}
