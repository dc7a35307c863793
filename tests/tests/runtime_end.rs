//! The end of a rotation. Once the end is reported, the rotation does nothing more.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Policy, Template};
use perennial_dev::Approval;
use perennial_rotation::Directory;
use perennial_smol::Rotator;
use perennial_tests::loopback::{
    BOUND, Runtime, break_directory, mend_directory, node, on_both, policy, serve, steady, stored,
};
use smol::future;

fn files(path: &Path) -> Vec<(std::ffi::OsString, u64)> {
    let entries = path.read_dir().unwrap().map(Result::unwrap);
    let mut files: Vec<_> = entries.map(|entry| (entry.file_name(), entry.metadata().map_or(0, |m| m.len()))).collect();
    files.sort();
    files
}

#[test]
fn dropped_rotation_writes_nothing_after_its_end() {
    let server = serve(Approval::Auto);
    let parent = tempfile::tempdir().unwrap();
    // So many files that listing the directory takes a while: the write is under way when the rotation is dropped.
    (0..20_000).for_each(|n| drop(std::fs::File::create(parent.path().join(n.to_string())).unwrap()));
    for delay in [1, 10] {
        let store = Directory::open(parent.path(), &format!("client-{delay}")).unwrap();
        let signer = node(Runtime::Smol, &server.cluster).signer.unwrap();
        let rotator = Rotator::new().policy(policy()).template(Template::node("worker-1")).signer(signer);
        let (handle, rotation) = perennial_smol::start(rotator.store(store)).unwrap();
        smol::block_on(future::or(rotation, async {
            handle.wait_for(|now| now.unwritten).await;
            smol::Timer::after(Duration::from_millis(delay)).await;
        }));
        smol::block_on(handle.shutdown());
        let at_the_end = files(parent.path());
        smol::block_on(smol::Timer::after(Duration::from_millis(300)));
        assert!(files(parent.path()) == at_the_end, "written to after the end, dropped after {delay} ms");
    }
}

#[test]
fn shutdown_retries_an_owed_write() {
    on_both(|runtime| {
        let server = serve(Approval::Auto);
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("pki");
        let mut holder = node(runtime, &server.cluster);
        holder.policy = Policy { write: steady(Duration::from_secs(3600)), ..policy() };
        holder.store = Some(Arc::new(Directory::open(&path, "kubelet-client").unwrap()));
        holder.template = None;
        let handle = holder.start();
        break_directory(&path);
        handle.set_template(Some(Template::node("worker-1"))).unwrap();
        handle.wait_for(|now| now.unwritten && now.last_error.is_some()).within(BOUND).unwrap();
        mend_directory(&path);
        let served = handle.credential().unwrap();
        handle.shutdown().wait();
        let stored = stored(&path);
        assert_eq!(stored.chain(), served.chain());
    });
}
