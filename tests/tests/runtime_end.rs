//! The end of a rotation: nothing happens after it was told.

mod support;

use std::path::Path;
use std::time::Duration;

use perennial::Template;
use perennial_kubernetes::server::Approval;
use perennial_smol::Rotator;
use perennial_std::Directory;
use smol::future;
use support::{node, policy, serve};

fn files(path: &Path) -> Vec<(std::ffi::OsString, u64)> {
    let entries = path.read_dir().unwrap().map(Result::unwrap);
    let mut files: Vec<_> = entries.map(|entry| (entry.file_name(), entry.metadata().map_or(0, |m| m.len()))).collect();
    files.sort();
    files
}

#[test]
fn no_file_is_written_after_a_dropped_rotation_is_known_to_have_ended() {
    let server = serve(Approval::Auto);
    let parent = tempfile::tempdir().unwrap();
    // So many that a look at the directory takes a while: the write is under way when the rotation is dropped.
    (0..20_000).for_each(|n| drop(std::fs::File::create(parent.path().join(n.to_string())).unwrap()));
    for delay in [1, 5, 10, 20] {
        let store = Directory::open(parent.path(), &format!("client-{delay}")).unwrap();
        let signer = node(support::Runtime::Smol, &server.cluster).signer.unwrap();
        let rotator = Rotator::new().policy(policy()).template(Template::node("worker-1")).signer(signer);
        let (handle, rotation) = rotator.store(store).unwrap().start();
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
