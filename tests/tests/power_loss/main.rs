//! The power fails at any step of an operation on a credential directory, and any part of the unsynced data survives. A
//! reader must then find the right pair, and further writes must succeed.

mod explore;
mod starts;

use explore::{Act, Explorer, Mistake, Tally};
use perennial::store::FileOp;
use perennial_tests::disk::{Disk, NODE, PATH, Start, pair};
use starts::{OLD, starts, with_records};

const CURRENT: &str = "kubelet-client-current.pem";

fn none_is_lost(tally: &Tally) {
    let Tally { crash_points, outcomes, losses } = tally;
    println!("crash points: {crash_points} outcomes: {outcomes} losses: {}", losses.len());
    assert!(losses.is_empty(), "{:#?}", &losses[..losses.len().min(10)]);
}

/// The initial directories that even a debug build explores to the full depth.
const DEEP: [&str; 3] = ["nothing", "one pair", "a damaged pair and the one before"];

/// The acts of a round: recover, or write a pair that no earlier round wrote.
fn about_pairs(round: usize) -> &'static [Act] {
    const ACTS: [[Act; 2]; 3] =
        [[Act::Recover, Act::Write(OLD)], [Act::Recover, Act::Write(OLD + 1)], [Act::Recover, Act::Write(OLD + 2)]];
    &ACTS[round]
}

fn about_records(round: usize) -> &'static [Act] {
    const ACTS: [[Act; 3]; 3] = [
        [Act::Remember(0), Act::Recover, Act::Write(OLD)],
        [Act::Remember(1), Act::Recover, Act::Write(OLD + 1)],
        [Act::Remember(2), Act::Recover, Act::Write(OLD + 2)],
    ];
    &ACTS[round]
}

/// A problem of Kubernetes: a loss of power leaves an empty file.
/// <https://github.com/kubernetes/kubernetes/pull/131111>
#[test]
fn power_loss_at_any_step_loses_no_pair() {
    let tally = Explorer::of_all(starts, None, |explorer, start| {
        let deep = if cfg!(debug_assertions) && !DEEP.contains(&start.what) { 1 } else { 2 };
        explorer.explore(start, about_pairs, deep);
    });
    none_is_lost(&tally);
}

/// After a loss of power a reader finds the pending record from before or the new one, never a part.
#[test]
fn power_loss_at_any_step_loses_no_record() {
    let deep = if cfg!(debug_assertions) { 1 } else { 2 };
    none_is_lost(&Explorer::of_all(with_records, None, |explorer, start| explorer.explore(start, about_records, deep)));
}

#[test]
fn failed_disk_operation_then_power_loss_loses_no_pair_or_record() {
    none_is_lost(&Explorer::of_all(starts, None, |explorer, start| explorer.explore_faults(start, about_pairs)));
    none_is_lost(&Explorer::of_all(with_records, None, |explorer, start| {
        explorer.explore_faults(start, about_records)
    }));
}

#[test]
fn omitting_any_sync_loses_a_pair_or_record() {
    // A recovery syncs both contents and names: neither a dated file nor its name need be durable.
    for (like, syncs) in [(Act::Write(OLD), 3), (Act::Recover, 2), (Act::Remember(0), 2)] {
        let record = matches!(like, Act::Remember(_));
        let (starts, acts): (fn(&[Vec<u8>]) -> _, _) =
            if record { (with_records, about_records as _) } else { (starts, about_pairs as explore::Acts) };
        for nth in 1..=syncs {
            let mistake = Some(Mistake { like, nth });
            let tally = Explorer::of_all(starts, mistake, |explorer, start| {
                explorer.explore(start, acts, if DEEP.contains(&start.what) { 2 } else { 1 });
            });
            println!("{mistake:?}: {}", tally.losses.first().expect("a loss without this sync"));
        }
        assert_eq!(Explorer::most_syncs(starts, like), syncs);
    }
}

#[test]
fn client_gos_update_order_loses_the_pair() {
    let mut losses = Vec::new();
    for (what, same_second) in [("a later second", false), ("the same second", true)] {
        let [old, new] = [pair(NODE, 0), pair(NODE, 1)].map(|pair| pair.to_pem());
        let name = if same_second { "kubelet-client-1.pem" } else { "kubelet-client-2.pem" };
        let disk = Disk::default()
            .with("kubelet-client-1.pem", Start::File(old.as_bytes()))
            .with(CURRENT, Start::Link("kubelet-client-1.pem"));
        for (step, state) in client_go(disk, name, new.as_bytes()).iter().enumerate() {
            let in_use = |left: &Disk| left.read(CURRENT).unwrap();
            let whole = |left: &Disk| in_use(left).is_some_and(|it| *it == *old.as_bytes() || *it == *new.as_bytes());
            let lost = state.outcomes().iter().filter(|left| !whole(left)).count();
            println!("client-go, {what}: step {step}: {lost} losses, {} without power loss", u8::from(!whole(state)));
            losses.push((what, step, lost));
        }
    }
    // client-go loses the pair after it has removed the link, and in a file that it has truncated.
    for what in ["a later second", "the same second"] {
        assert!(losses.iter().any(|(it, _, lost)| *it == what && *lost > 0), "{losses:?}");
    }
}

/// The states of the disk during client-go's `Update` and `updateSymlink` (`certificate_store.go`).
fn client_go(mut disk: Disk, name: &str, contents: &[u8]) -> Vec<Disk> {
    const UPDATED: &str = "kubelet-client-updated.pem";
    let mut seen = vec![disk.clone()];
    disk.overwrite(name, contents, |state| seen.push(state.clone())).unwrap();
    let link = FileOp::Symlink { target: format!("{PATH}/{name}"), name: UPDATED.into() };
    let remove = FileOp::Remove { name: CURRENT.into() };
    let rename = FileOp::Rename { from: UPDATED.into(), to: CURRENT.into() };
    for op in [FileOp::Sync { name: name.into() }, link, remove, rename] {
        disk.execute(&op, &[], |state| seen.push(state.clone())).unwrap();
    }
    seen
}
