//! Requests and handshakes with keys in a device that works, fails, is slow or is absent.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use super::{Device, Fault, cluster_credential, failed, mesh, reference};
use perennial::{Failure, State, Template, Validity};
use perennial_dev::TestCluster;
use perennial_pki::{
    ExternalKey, ExternalKeyError, Issuer, KeyAlgorithm, KeyPair, KeyUsage, Roots, Terms, Usage, read_request,
    self_signed,
};
use perennial_rotation::tls::{client_config, mutual_server_config};
use perennial_rotation::{
    Command, Credential, Input, KeySource, Memory, News, Profile, Rotation, Rotator, SignError, SignWith, Start,
    Store as _, Work, clock,
};
use perennial_tests::loopback::{BOUND, Runtime, issued, on_both, policy, start};
use perennial_tests::tls::{answer, connect, fingerprint, server, try_answer};

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
        let (pair, record) = (serving.credential().unwrap().to_pem(), store.recall().unwrap().unwrap());
        for value in [pair.as_bytes(), &record] {
            assert!(!String::from_utf8_lossy(value).contains("PRIVATE KEY"));
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
fn rsa_key_is_generated_off_the_loop() {
    for (key_algorithm, is_off) in
        [(KeyAlgorithm::Rsa, true), (KeyAlgorithm::Rsa4096, true), (KeyAlgorithm::EcdsaP384, false)]
    {
        let signer = SignWith::blocking("example.com/mesh", |_, _| Err(SignError::new(Failure::Local, "never called")));
        let signer = signer.profile(Profile { key_algorithm, ..Profile::new([Usage::ClientAuth]) });
        let template = Some(Arc::new(Template::new("client")));
        let now = clock::now();
        let start = Start { signer: Some(Arc::new(signer)), template, ..Start::default() };
        let mut rotation = Rotation::new(start, now);
        let commands = rotation.handle(Input::Tick, now);
        let key = commands.into_iter().find_map(|command| match command {
            Command::Key { id, call } => Some(Input::Keyed { id, keyed: call.run() }),
            _ => None,
        });
        assert_eq!(key.is_some(), is_off, "{key_algorithm}");
        let Some(keyed) = key else { continue };
        let commands = rotation.handle(keyed, now);
        if key_algorithm.can_be_generated() {
            assert!(commands.iter().any(|command| matches!(command, Command::Drive { .. })));
        } else {
            let error = rotation.snapshot(now).last_error.unwrap();
            assert!(error.contains("not generated"), "{error}");
        }
    }
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
