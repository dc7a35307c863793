//! Rotations with external keys, which stay in a device. The device makes a key, finds a key by its reference, and
//! signs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use perennial::{Failure, State, Template, Validity};
use perennial_dev::{Approval, ClusterSetup, Decision, Options, TestCluster};
use perennial_pki::{
    ExternalKey, ExternalKeyError, Issuer, KeyAlgorithm, KeyPair, KeyUsage, Roots, Terms, Usage, read_request,
    self_signed,
};
use perennial_rotation::tls::{Source, client_config, mutual_server_config};
use perennial_rotation::{
    Command, Credential, Directory, Handle, Input, KeySource, KeyValue, LoadRequest, Memory, News, Rotation, Rotator,
    SignError, SignWith, Snapshot, Start, Store, StoreError, Stored, UnixTime, Work, clock,
};
use perennial_tests::loopback::{BOUND, Runtime, issued, on_both, policy, start, waits_for_approval};
use perennial_tests::tls::{answer, connect, fingerprint, server, try_answer};
use rustls::SignatureScheme;
use zeroize::Zeroizing;

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

#[test]
fn external_keys_rotate_on_both_sides_of_tls() {
    on_both(|runtime: Runtime| {
        let cluster = TestCluster::start().unwrap();
        let roots = Roots::from_pem(cluster.ca_pem()).unwrap();
        let (serving_keys, calling_keys, store) = (Device::default(), Device::default(), Memory::default());
        let rotator = mesh(&cluster, "server", Usage::ServerAuth).keys(serving_keys.clone()).store(store.clone());
        let serving = start(runtime, rotator);
        let calling = start(runtime, mesh(&cluster, "client", Usage::ClientAuth).keys(calling_keys.clone()));
        let address = server(mutual_server_config(&serving, roots.clone()));
        let config = Arc::new(client_config(&calling, roots));
        let mut seen = Vec::new();
        for n in 1..=3 {
            let (serving_now, calling_now) = (issued(&serving, n), issued(&calling, n));
            let mut stream = connect(address, config.clone());
            assert_eq!(answer(&mut stream), (fingerprint(&calling_now), false));
            seen.push([reference(&serving_now), reference(&calling_now)]);
            serving.rotate_now();
            calling.rotate_now();
        }
        issued(&serving, 4);
        // Each certificate has a new key, and the keys of replaced ones are gone but for the last.
        assert_eq!(seen, [1, 2, 3].map(|n| [(); 2].map(|()| format!("device:key-{n}"))));
        assert_eq!(serving_keys.references(), ["device:key-3", "device:key-4"]);
        for value in ["current", "record"].map(|key| store.get(key).unwrap().unwrap()) {
            assert!(!String::from_utf8_lossy(&value).contains("PRIVATE KEY"));
        }
        serving.shutdown().wait();
        calling.shutdown().wait();
    });
}

#[test]
fn request_fails_with_message_and_certificate_stays_if_key_source_fails() {
    on_both(|runtime: Runtime| {
        let (cluster, device) = (TestCluster::start().unwrap(), Device::default());
        let handle = start(runtime, mesh(&cluster, "client", Usage::ClientAuth).keys(device.clone()));
        let mut current = issued(&handle, 1);
        for (n, fault, expected) in [
            (2, Fault::Absent, "cannot make a key: no token in slot 0"),
            (3, Fault::CannotSign, "cannot sign: the session was closed"),
            (4, Fault::Panics, "the key source panicked: this driver has a bug"),
            (5, Fault::SameKey, "is in use: a certificate needs a new key"),
            (6, Fault::OtherKind, "the signer's profile wants ecdsa-p256"),
        ] {
            device.set(fault);
            handle.rotate_now();
            let error = failed(&handle, Failure::Local);
            assert!(error.contains(expected), "{error}");
            assert_eq!(handle.credential().unwrap().chain(), current.chain());
            device.set(None);
            current = issued(&handle, n);
        }
        handle.shutdown().wait();
    });
}

#[test]
fn key_that_failed_to_sign_is_used_again_by_the_retry() {
    let (cluster, device) = (TestCluster::start().unwrap(), Device::default());
    device.set(Fault::CannotSign);
    let handle = start(Runtime::Std, mesh(&cluster, "client", Usage::ClientAuth).keys(device.clone()));
    failed(&handle, Failure::Local);
    device.set(None);
    assert_eq!((reference(&issued(&handle, 1)).as_str(), device.made()), ("device:key-1", 1));
    handle.shutdown().wait();
}

#[test]
fn retry_replaces_pending_key_that_device_has_lost() {
    let cluster = TestCluster::start().unwrap();
    let device = Device::default();
    device.set(Fault::CannotSign);
    let handle = start(Runtime::Std, mesh(&cluster, "client", Usage::ClientAuth).keys(device.clone()));
    failed(&handle, Failure::Local);
    assert_eq!(device.references(), ["device:key-1"]);
    device.0.lock().unwrap().keys.clear();
    device.set(None);
    assert_eq!(reference(&issued(&handle, 1)), "device:key-2");
    handle.shutdown().wait();
}

#[test]
fn handshake_fails_with_message_if_device_is_absent() {
    let (cluster, device) = (TestCluster::start().unwrap(), Device::default());
    let roots = Roots::from_pem(cluster.ca_pem()).unwrap();
    let handle = start(Runtime::Std, mesh(&cluster, "client", Usage::ClientAuth).keys(device.clone()));
    issued(&handle, 1);
    let address = server(mutual_server_config(cluster_credential(&cluster), roots.clone()));
    let config = Arc::new(client_config(&handle, roots));
    device.set(Fault::Absent);
    let error = try_answer(&mut connect(address, config.clone())).unwrap_err().to_string();
    assert!(error.contains("the key device:key-1 cannot sign: the session was closed"), "{error}");
    device.set(None);
    try_answer(&mut connect(address, config)).unwrap();
    handle.shutdown().wait();
}

/// A source of one server certificate for `localhost`, whose key is in memory.
fn cluster_credential(cluster: &TestCluster) -> Source {
    let handle = start(Runtime::Std, mesh(cluster, "server", Usage::ServerAuth));
    let credential = issued(&handle, 1);
    Source::new(move || Some(credential.clone()))
}

#[test]
fn restart_continues_request_with_key_found_by_reference() {
    on_both(|runtime: Runtime| {
        let options = Options { approval: Approval::Manual, ..Options::default() };
        let cluster = TestCluster::start_with(ClusterSetup { options, ..ClusterSetup::default() }).unwrap();
        let (device, store) = (Device::default(), Memory::default());
        let begin = || {
            let rotator = Rotator::new().template(Template::node("worker-1")).signer(cluster.node_signer());
            start(runtime, rotator.keys(device.clone()).store(store.clone()))
        };
        let handle = begin();
        let name = waits_for_approval(&handle);
        handle.shutdown().wait();

        let handle = begin();
        assert_eq!(waits_for_approval(&handle), name);
        cluster.decide(&name, Decision::Approve).unwrap();
        let first = issued(&handle, 1);
        assert_eq!((reference(&first).as_str(), device.made()), ("device:key-1", 1));
        handle.shutdown().wait();

        let handle = begin();
        assert_eq!(handle.ready().within(BOUND).unwrap().chain(), first.chain());
        handle.shutdown().wait();
    });
}

#[test]
fn rotation_does_not_start_without_the_key_of_its_certificate() {
    let (cluster, device, store) = (TestCluster::start().unwrap(), Device::default(), Memory::default());
    let rotator = || mesh(&cluster, "client", Usage::ClientAuth).store(store.clone());
    let handle = start(Runtime::Std, rotator().keys(device.clone()));
    let first = issued(&handle, 1);
    handle.shutdown().wait();

    device.set(Fault::Absent);
    let error = rotator().keys(device.clone()).prepare().unwrap_err().to_string();
    let expected = "the pair `current` of the store is unusable: the private key device:key-1 cannot be used: no token \
                    in slot 0; set the key source that made the key, and check its device";
    assert_eq!(error, expected);
    let error = rotator().prepare().unwrap_err().to_string();
    assert!(error.contains("stays elsewhere, as device:key-1; only a program with a source"), "{error}");

    device.set(None);
    let (handle, _task) = rotator().keys(device).prepare().unwrap();
    assert_eq!(handle.credential().unwrap().chain(), first.chain());
}

#[test]
fn panic_of_key_source_at_start_is_an_error() {
    let (cluster, device, store) = (TestCluster::start().unwrap(), Device::default(), Memory::default());
    let rotator = || mesh(&cluster, "client", Usage::ClientAuth).keys(device.clone()).store(store.clone());
    let handle = start(Runtime::Std, rotator());
    issued(&handle, 1);
    handle.shutdown().wait();

    device.set(Fault::Panics);
    let error = rotator().prepare().unwrap_err().to_string();
    assert_eq!(error, "the store or the key source panicked");
}

#[test]
fn panic_of_key_source_at_pending_record_starts_without_the_record() {
    let options = Options { approval: Approval::Manual, ..Options::default() };
    let cluster = TestCluster::start_with(ClusterSetup { options, ..ClusterSetup::default() }).unwrap();
    let (device, store) = (Device::default(), Memory::default());
    let rotator = || {
        let rotator = Rotator::new().template(Template::node("worker-1")).signer(cluster.node_signer());
        rotator.keys(device.clone()).store(store.clone())
    };
    let handle = start(Runtime::Std, rotator());
    let first = waits_for_approval(&handle);
    handle.shutdown().wait();

    device.set(Fault::Panics);
    let (handle, task) = rotator().prepare().unwrap();
    device.set(None);
    perennial_std::spawn(task).unwrap();
    assert_ne!(waits_for_approval(&handle), first);
    handle.shutdown().wait();
}

#[test]
fn credential_directory_refuses_external_keys_and_stays_unchanged() {
    let (cluster, parent) = (TestCluster::start().unwrap(), tempfile::tempdir().unwrap());
    let rotator = || {
        let directory = Directory::open(parent.path(), "kubelet-client").unwrap();
        mesh(&cluster, "client", Usage::ClientAuth).store(directory)
    };
    let handle = start(Runtime::Std, rotator());
    let first = issued(&handle, 1);
    handle.shutdown().wait();
    let files =
        || std::fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let before = files();

    let device = Device::default();
    let error = rotator().keys(device.clone()).prepare().unwrap_err().to_string();
    assert!(error.contains("contains keys, as kubelet's does, and none that stays elsewhere; use another"), "{error}");
    let handle = start(Runtime::Std, mesh(&cluster, "client", Usage::ClientAuth).keys(device));
    let elsewhere = issued(&handle, 1);
    handle.shutdown().wait();
    let directory = Directory::open(parent.path(), "kubelet-client").unwrap();
    let now = clock::now().unix;
    for error in [directory.write(&elsewhere, now), directory.write_ahead(&elsewhere, now)].map(Result::unwrap_err) {
        assert!(error.to_string().contains("none that stays elsewhere"), "{error}");
    }
    assert_eq!(files(), before);
    drop(directory);
    assert_eq!(rotator().prepare().unwrap().0.credential().unwrap().chain(), first.chain());
}

#[test]
fn next_rotation_replaces_key_in_memory_by_external_key() {
    let (cluster, device, store) = (TestCluster::start().unwrap(), Device::default(), Memory::default());
    let rotator = || mesh(&cluster, "client", Usage::ClientAuth).store(store.clone());
    let handle = start(Runtime::Std, rotator());
    let first = issued(&handle, 1);
    handle.shutdown().wait();
    let handle = start(Runtime::Std, rotator().keys(device));
    assert_eq!(handle.credential().unwrap().chain(), first.chain());
    handle.rotate_now();
    assert_eq!(reference(&issued(&handle, 1)), "device:key-1");
    handle.shutdown().wait();
}

/// A store whose writes fail once a credential has been written.
#[derive(Debug, Default)]
struct FullAfterFirst(Memory);

impl Store for FullAfterFirst {
    fn load(&self, request: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        self.0.load(request)
    }

    fn write(&self, credential: &Arc<Credential>, serve: bool, now: UnixTime) -> Result<(), StoreError> {
        if self.0.get("current")?.is_some() {
            return Err("the table is full".into());
        }
        self.0.write(credential, serve, now)
    }

    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        self.0.recall()
    }

    fn remember(&self, record: &[u8]) -> Result<(), StoreError> {
        self.0.remember(record)
    }
}

#[test]
fn key_of_stored_certificate_is_in_use_while_later_writes_fail() {
    let (cluster, device) = (TestCluster::start().unwrap(), Device::default());
    let rotator = mesh(&cluster, "client", Usage::ClientAuth).keys(device.clone());
    let handle = start(Runtime::Std, rotator.store(FullAfterFirst::default()));
    for n in 1..=4 {
        handle.wait_for(|now| now.issued >= n).within(BOUND).unwrap();
        handle.rotate_now();
    }
    handle.wait_for(|now| now.issued >= 5).within(BOUND).unwrap();
    let mut in_use = device.0.lock().unwrap().in_use.clone();
    in_use.sort();
    in_use.dedup();
    assert!(in_use.contains(&"device:key-1".to_owned()) && in_use.contains(&"device:key-4".to_owned()), "{in_use:?}");
    handle.shutdown().wait();
}

fn validity() -> Validity {
    let (now, hour) = (clock::now().unix, Duration::from_secs(3600));
    Validity::new(now.before(hour), now.after(24 * hour)).unwrap()
}

fn ca() -> Issuer {
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let chain = self_signed("mesh CA", &key, &[1], validity()).unwrap();
    Issuer::new(Credential::new(chain, Arc::new(key)).unwrap()).unwrap()
}

/// A key source that returns the same key from each call of `make`. The flag is the result of `reuses_keys`.
#[derive(Debug)]
struct Single(Device, bool);

impl KeySource for Single {
    fn make(&self, algorithm: KeyAlgorithm, _: &[String]) -> Result<Arc<dyn ExternalKey>, ExternalKeyError> {
        if self.0.made() == 0 { self.0.make(algorithm, &[]) } else { self.0.key("device:key-1") }
    }

    fn find(&self, reference: &str) -> Result<Arc<dyn ExternalKey>, ExternalKeyError> {
        self.0.find(reference)
    }

    fn reuses_keys(&self) -> bool {
        self.1
    }
}

#[test]
fn key_in_use_is_accepted_again_only_if_key_source_reuses_keys() {
    for reuses in [false, true] {
        // Not a Kubernetes signer, which would find the first request by its key.
        let (ca, serial) = (ca(), AtomicU8::new(2));
        let rotator = Rotator::new().template(Template::new("client")).policy(policy());
        let rotator = rotator.sign_with("example.com/mesh", move |request, _| {
            let terms = Terms {
                serial: &[serial.fetch_add(1, Ordering::SeqCst)],
                validity: validity(),
                key_usages: &[KeyUsage::DigitalSignature],
                extended_key_usages: &[Usage::ClientAuth],
            };
            Ok(ca.issue(&read_request(request.csr.pem.as_bytes()).unwrap(), &terms).unwrap())
        });
        let handle = start(Runtime::Std, rotator.keys(Single(Device::default(), reuses)));
        let first = issued(&handle, 1);
        handle.rotate_now();
        if reuses {
            let second = issued(&handle, 2);
            assert_ne!(first.chain(), second.chain());
            assert_eq!(reference(&first), reference(&second));
        } else {
            assert!(failed(&handle, Failure::Local).contains("device:key-1, which is in use"));
        }
        handle.shutdown().wait();
    }
}

/// A key source whose `make` first sends a message, then blocks until the test sends one.
#[derive(Debug)]
struct Slow(Device, Mutex<mpsc::Receiver<()>>, Mutex<mpsc::Sender<()>>);

impl KeySource for Slow {
    fn make(&self, algorithm: KeyAlgorithm, in_use: &[String]) -> Result<Arc<dyn ExternalKey>, ExternalKeyError> {
        self.2.lock().unwrap().send(())?;
        self.1.lock().unwrap().recv()?;
        self.0.make(algorithm, in_use)
    }

    fn find(&self, reference: &str) -> Result<Arc<dyn ExternalKey>, ExternalKeyError> {
        self.0.find(reference)
    }
}

#[test]
fn timed_out_request_without_key_names_the_key_source() {
    let signer = SignWith::blocking("example.com/mesh", |_, _| Err(SignError::new(Failure::Local, "never called")));
    let mut rotation = Rotation::new(
        Start {
            signer: Some(Arc::new(signer)),
            template: Some(Arc::new(Template::new("client"))),
            keys: Some(Arc::new(Device::default())),
            ..Start::default()
        },
        clock::now(),
    );
    let mut now = clock::now();
    assert!(rotation.handle(Input::Tick, now).iter().any(|command| matches!(command, Command::Key { .. })));
    let timeout = rotation.machine().policy().request_timeout;
    (now.instant, now.unix) = (now.instant.after(timeout), now.unix.after(timeout));
    drop(rotation.handle(Input::Tick, now));
    let error = rotation.snapshot(now).last_error.unwrap();
    assert!(error.ends_with("; the key source has not returned"), "{error}");
}

#[test]
fn rotation_ends_after_running_call_of_key_source() {
    let ((go, gone), (begun, has_begun)) = (mpsc::channel(), mpsc::channel());
    let slow = Slow(Device::default(), Mutex::new(gone), Mutex::new(begun));
    let rotator = Rotator::new().template(Template::new("client")).keys(slow);
    let rotator = rotator.sign_with("example.com/mesh", |_, _| Err(SignError::new(Failure::Local, "never called")));
    let (handle, mut task) = rotator.prepare().unwrap();
    let Ok([Work::Store(job)]) = <[Work; 1]>::try_from(task.step(clock::now())) else {
        panic!("no call of the source")
    };
    let call = thread::spawn(move || job.run());
    has_begun.recv().unwrap();
    let end = handle.shutdown();
    assert!(task.step(clock::now()).is_empty() && task.is_over());
    drop(task);
    let has_ended = || handle.notices(1).try_recv().is_some_and(|notice| matches!(notice.news, News::Ended));
    assert!(!has_ended());
    go.send(()).unwrap();
    call.join().unwrap();
    assert!(has_ended());
    end.within(BOUND);
}

#[test]
fn slow_key_source_does_not_hold_up_the_rotation() {
    on_both(|runtime: Runtime| {
        let cluster = TestCluster::start().unwrap();
        let ((go, gone), (begun, has_begun)) = (mpsc::channel(), mpsc::channel());
        let slow = Slow(Device::default(), Mutex::new(gone), Mutex::new(begun));
        let handle = start(runtime, mesh(&cluster, "client", Usage::ClientAuth).keys(slow));
        has_begun.recv_timeout(BOUND.unwrap()).unwrap();
        // The rotation withdraws the request while its key is still being made, and ignores that key.
        handle.set_template(None).unwrap();
        handle.wait_for(|now| !matches!(now.state, State::Requesting { .. })).within(BOUND).unwrap();
        handle.set_template(Some(Template::new("client"))).unwrap();
        go.send(()).unwrap();
        has_begun.recv_timeout(BOUND.unwrap()).unwrap();
        go.send(()).unwrap();
        assert_eq!(reference(&issued(&handle, 1)), "device:key-2");
        handle.shutdown().wait();
    });
}
