//! Restarts and stores: references of keys in place of keys.

use std::sync::{Arc, OnceLock};

use super::{Device, Fault, mesh, reference};
use perennial::Template;
use perennial_dev::{Approval, ClusterSetup, Decision, Options, TestCluster};
use perennial_pki::Usage;
use perennial_rotation::{
    Credential, Directory, LoadRequest, Memory, Rotator, Store, StoreError, Stored, UnixTime, clock,
};
use perennial_tests::loopback::{BOUND, Runtime, issued, on_both, start, waits_for_approval};
use zeroize::Zeroizing;

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
struct FullAfterFirst(Memory, OnceLock<()>);

impl Store for FullAfterFirst {
    fn load(&self, request: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        self.0.load(request)
    }

    fn write(&self, credential: &Arc<Credential>, serve: bool, now: UnixTime) -> Result<(), StoreError> {
        if self.1.set(()).is_err() {
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
