//! Rotations with external keys, which stay in a device. The device makes a key, finds a key by its reference, and
//! signs.

mod requests;
mod restarts;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use perennial::{Failure, State, Template};
use perennial_dev::TestCluster;
use perennial_pki::{ExternalKey, ExternalKeyError, KeyAlgorithm, KeyPair, Usage};
use perennial_rotation::tls::Source;
use perennial_rotation::{Credential, Handle, KeySource, Rotator, Snapshot};
use perennial_tests::loopback::{BOUND, Runtime, issued, policy, start};
use rustls::SignatureScheme;

/// A device with keys. Clones are the same device.
#[derive(Clone, Debug, Default)]
struct Device(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    keys: BTreeMap<String, Arc<KeyPair>>,
    made: u32,
    fault: Option<Fault>,
    /// The references of the keys in use, as the last call of `make` received them.
    in_use: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Absent,
    CannotSign,
    Panics,
    SameKey,
    OtherKind,
}

impl Device {
    fn set(&self, fault: impl Into<Option<Fault>>) {
        self.0.lock().unwrap().fault = fault.into();
    }

    fn made(&self) -> u32 {
        self.0.lock().unwrap().made
    }

    fn references(&self) -> Vec<String> {
        self.0.lock().unwrap().keys.keys().cloned().collect()
    }

    fn key(&self, reference: &str) -> Result<Arc<dyn ExternalKey>, ExternalKeyError> {
        let key = self.0.lock().unwrap().keys.get(reference).ok_or("no such key")?.clone();
        Ok(Arc::new(DeviceKey { device: self.clone(), reference: reference.to_owned(), key }))
    }
}

impl KeySource for Device {
    fn make(&self, algorithm: KeyAlgorithm, in_use: &[String]) -> Result<Arc<dyn ExternalKey>, ExternalKeyError> {
        let fault = self.0.lock().unwrap().fault;
        let algorithm = match fault {
            Some(Fault::Absent) => return Err("no token\nin slot 0".into()),
            Some(Fault::Panics) => panic!("this driver has a bug"),
            Some(Fault::SameKey) => return self.key(&in_use[0]),
            Some(Fault::OtherKind) => KeyAlgorithm::Ed25519,
            Some(Fault::CannotSign) | None => algorithm,
        };
        let mut state = self.0.lock().unwrap();
        state.in_use = in_use.to_vec();
        state.keys.retain(|reference, _| in_use.contains(reference));
        state.made += 1;
        let reference = format!("device:key-{}", state.made);
        state.keys.insert(reference.clone(), Arc::new(KeyPair::generate(algorithm)?));
        drop(state);
        self.key(&reference)
    }

    fn find(&self, reference: &str) -> Result<Arc<dyn ExternalKey>, ExternalKeyError> {
        let fault = self.0.lock().unwrap().fault;
        match fault {
            Some(Fault::Absent) => Err("no token\nin slot 0".into()),
            Some(Fault::Panics) => panic!("this driver has a bug"),
            _ => self.key(reference),
        }
    }
}

#[derive(Debug)]
struct DeviceKey {
    device: Device,
    reference: String,
    key: Arc<KeyPair>,
}

impl ExternalKey for DeviceKey {
    fn public_key_der(&self) -> Vec<u8> {
        self.key.public_key_der().to_vec()
    }

    fn reference(&self) -> String {
        self.reference.clone()
    }

    fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, ExternalKeyError> {
        let device = self.device.0.lock().unwrap();
        if matches!(device.fault, Some(Fault::CannotSign | Fault::Absent)) || !device.keys.contains_key(&self.reference)
        {
            return Err("the session was closed".into());
        }
        Ok(self.key.signing_key().choose_scheme(&[scheme]).ok_or("unknown scheme")?.sign(message)?)
    }
}

fn mesh(cluster: &TestCluster, name: &str, usage: Usage) -> Rotator {
    let template = Template::new(name).with_dns_names(["localhost"]);
    Rotator::new().template(template).policy(policy()).signer(cluster.signer("example.com/mesh", usage))
}

/// Waits for a failure of this kind, and returns its message.
fn failed(handle: &Handle, failure: Failure) -> String {
    let has_failed = |now: &Snapshot| matches!(now.state, State::BackingOff { last, .. } if last == failure);
    let snapshot = handle.wait_for(has_failed).within(BOUND);
    snapshot.unwrap_or_else(|| panic!("{:?}", handle.snapshot())).last_error.as_deref().unwrap().to_owned()
}

fn reference(credential: &Credential) -> String {
    credential.key().reference().unwrap().to_owned()
}

/// A source of one server certificate for `localhost`, whose key is in memory.
fn cluster_credential(cluster: &TestCluster) -> Source {
    let handle = start(Runtime::Std, mesh(cluster, "server", Usage::ServerAuth));
    let credential = issued(&handle, 1);
    Source::new(move || Some(credential.clone()))
}
