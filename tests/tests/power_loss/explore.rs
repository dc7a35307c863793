//! Explores losses of power. The power fails at every step of an operation of a `Directory`, and every state that the
//! disk may have after the loss is checked. In each of these states, further operations run, and the power fails again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::mem;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use perennial::store::FileOp;
use perennial_pki::Credential;
use perennial_tests::disk::{Call, Disk, Fate, Fates, NODE, NOW, Virtual, expired, pair};

use super::CURRENT;
use super::starts::{EXPIRED, Found, PENDING, UPDATED, go_loads, is_anothers};

/// An operation of a `Directory` that a loss of power may interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Recover,
    /// Write the pair with this number.
    Write(usize),
    /// Write the record with this number.
    Remember(usize),
}

/// Returns the acts to try in the round with this number.
pub(crate) type Acts = fn(usize) -> &'static [Act];

/// A deliberate mistake, which shows that a sync is needed: every act of the same kind as `like` omits its sync number
/// `nth`, counted from 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mistake {
    pub(crate) like: Act,
    pub(crate) nth: usize,
}

impl Mistake {
    fn is_made_in(&self, act: Act) -> bool {
        mem::discriminant(&self.like) == mem::discriminant(&act)
    }
}

type Visible = BTreeMap<Arc<str>, Arc<[u8]>>;

pub(crate) struct Explorer {
    pairs: Vec<Credential>,
    pems: Vec<Vec<u8>>,
    mistake: Option<Mistake>,
    tally: Tally,
    loads: BTreeMap<Visible, Option<usize>>,
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) crash_points: usize,
    pub(crate) outcomes: usize,
    pub(crate) losses: Vec<String>,
}

impl Tally {
    fn add(&mut self, more: Self) {
        self.crash_points += more.crash_points;
        self.outcomes += more.outcomes;
        self.losses.extend(more.losses);
    }
}

/// An act that was carried out, with every state that the disk had during the act.
pub(crate) struct Run {
    act: Act,
    seen: Vec<Disk>,
    /// The pair that the act wrote or found, by number, and whether `PREFIX-current.pem` leads to the pair. `None`: the
    /// act failed, or concerns the pending record. `Some(None)`: the act found no pair.
    result: Option<Option<(usize, bool)>>,
    /// The record that the act wrote. `None` if the act failed, or writes no record.
    record: Option<Arc<[u8]>>,
    calls: usize,
}

/// The contents that a reader may find before an act begins, whether or not the power fails at that time.
struct Promise {
    found: BTreeSet<Option<usize>>,
    /// True if `PREFIX-current.pem` leads to a pair in every possible state.
    in_use: bool,
    records: BTreeSet<Option<Arc<[u8]>>>,
    /// Files that Go can load in every possible state, by name.
    loadable: Visible,
}

impl Explorer {
    /// Explores each of the initial directories, on all cores, and adds up the tallies.
    pub(crate) fn of_all(
        starts: fn(&[Vec<u8>]) -> Vec<Found>,
        mistake: Option<Mistake>,
        explore: impl Fn(&mut Self, &Found) + Sync,
    ) -> Tally {
        let mut pairs: Vec<_> = (0..EXPIRED).map(|n| pair(NODE, u8::try_from(n).unwrap())).collect();
        pairs.push(expired(NODE, 1));
        let pems: Vec<_> = pairs.iter().map(|pair| pair.to_pem().as_bytes().to_vec()).collect();
        let (starts, found) = (Mutex::new(starts(&pems).into_iter()), Mutex::new(Tally::default()));
        let work = || {
            while let Some(start) = { starts.lock().unwrap().next() } {
                let (pairs, pems) = (pairs.clone(), pems.clone());
                let (tally, loads) = (Tally::default(), BTreeMap::new());
                let mut explorer = Self { pairs, pems, mistake, tally, loads };
                explore(&mut explorer, &start);
                found.lock().unwrap().add(explorer.tally);
            }
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        found.into_inner().unwrap()
    }

    /// Explores sequences of acts on a directory. A loss of power interrupts each of up to `deep` acts in a row; then
    /// one act runs to its end.
    pub(crate) fn explore(&mut self, start: &Found, acts: Acts, deep: usize) {
        let mut now = BTreeSet::from([start.disk.clone().renumbered()]);
        let mut known = now.clone();
        for round in 0..=deep {
            let mut next = BTreeSet::new();
            for disk in &now {
                if self.mistake.is_some() && !self.tally.losses.is_empty() {
                    return;
                }
                for &act in acts(round) {
                    let run = self.run(disk, act, self.fates(act));
                    self.follow(start, &run, round < deep, &mut next);
                }
            }
            next.retain(|disk| known.insert(disk.clone()));
            now = next;
        }
    }

    /// Explores single acts. During each act, one disk operation reports an error, whether or not it was carried out,
    /// and the power fails at any step.
    pub(crate) fn explore_faults(&mut self, start: &Found, acts: Acts) {
        for &act in acts(0) {
            for nth in 0.. {
                let mut reached = false;
                for fate in [Fate::Failed(ErrorKind::Other), Fate::DoneAndFailed(ErrorKind::Other)] {
                    let fates = move |call, _: Call<'_>| if call == nth { fate } else { Fate::Done };
                    let mut run = self.run(&start.disk, act, Box::new(fates));
                    reached = run.calls > nth;
                    if act == Act::Recover {
                        // A recovery may have used another pair after a failed read, and changed nothing.
                        run.result = None;
                    }
                    self.follow(start, &run, true, &mut BTreeSet::new());
                }
                if !reached {
                    break;
                }
            }
        }
    }

    /// Checks the state of the disk at the end of a run. If `cut_short`, checks also every state that the disk may have
    /// after a loss of power during the run. Adds the checked states to `next`.
    pub(crate) fn follow(&mut self, start: &Found, run: &Run, cut_short: bool, next: &mut BTreeSet<Disk>) {
        let before = self.promise(&run.seen[0]);
        let last = run.seen.len() - 1;
        let unfinished = |name: &Arc<str>| name.ends_with(".new") && !is_anothers(name) || name.ends_with(".link");
        if run.act == Act::Recover && run.result.is_some() && run.seen[last].visible().keys().any(unfinished) {
            self.tally.losses.push(format!("{}: what a crash left is still there", start.what));
        }
        for (step, disk) in run.seen.iter().enumerate().skip(if cut_short { 0 } else { last }) {
            // The process may end alone, which keeps the visible state, or the power fails.
            let mut left = BTreeSet::from([disk.clone().renumbered()]);
            if cut_short {
                self.tally.crash_points += 1;
                left.extend(disk.outcomes());
            }
            for disk in left {
                self.tally.outcomes += 1;
                if let Err(why) = self.check_run(start, run, step == last, &before, &disk) {
                    let names: Vec<_> =
                        disk.visible().iter().map(|(name, it)| format!("{name} {}", it.len())).collect();
                    let Run { act, result, .. } = run;
                    let what = start.what;
                    self.tally
                        .losses
                        .push(format!("{what}: {act:?} ({result:?}), step {step} of {last}: {why}: {names:?}"));
                }
                next.insert(disk);
            }
        }
    }

    fn check_run(
        &mut self,
        start: &Found,
        run: &Run,
        ended: bool,
        before: &Promise,
        left: &Disk,
    ) -> Result<(), String> {
        let (found, in_use) = (self.load(left), self.in_use(left));
        let there = left.visible();
        let is_gone = |kept: &&Vec<u8>| there.values().all(|bytes| **bytes != ***kept) && !self.is_replaced(kept, left);
        if start.keepsakes.iter().any(|kept| is_gone(&kept)) {
            return Err("a file that no plan may remove is gone".into());
        }
        self.check_files_that_go_loads(before, left)?;
        let (record, wanted) = (record(left), record_after(run.act));
        let is_kept = before.records.contains(&record) || wanted == record;
        match &run.record {
            Some(reported) if ended && record.as_ref() != Some(reported) => {
                return Err(format!("the record is {record:?}"));
            }
            _ if !is_kept => return Err(format!("the record is {record:?}, not one of {:?}", before.records)),
            _ => {}
        }
        match (run.result, run.act) {
            (Some(reported), _) if ended => {
                if found != reported.map(|(pair, _)| pair) {
                    return Err(format!("the operation reported {reported:?}, but {found:?} is found"));
                }
                if reported.is_some_and(|(pair, is_in_use)| is_in_use && in_use != Some(pair)) {
                    return Err(format!("the operation reported {reported:?}, but {in_use:?} is in use"));
                }
            }
            (_, Act::Write(new)) if found == Some(new) => {}
            _ if before.found.contains(&found) => {}
            _ => return Err(format!("{found:?} is found, not one of {:?}", before.found)),
        }
        if before.in_use && in_use.is_none() { Err("no pair is in use".into()) } else { Ok(()) }
    }

    /// Checks the law of the credential directory: no step of a write or a recovery removes or changes a file that Go
    /// can load, unless a durable pair supersedes the file. A pair of this node is superseded by a pair of this node
    /// that was issued later. A pair of another node is superseded by any pair of this node.
    fn check_files_that_go_loads(&self, before: &Promise, left: &Disk) -> Result<(), String> {
        let is_gone = |(name, bytes): &(&Arc<str>, &Arc<[u8]>)| {
            left.read(name).ok().flatten().as_ref() != Some(*bytes) && !self.is_replaced(bytes, left)
        };
        match before.loadable.iter().find(is_gone) {
            Some((name, _)) => Err(format!("{name}, which Go loads, has changed without a successor")),
            None => Ok(()),
        }
    }

    /// True if a pair is in use that was issued later than the pair `bytes`. If `bytes` is no pair of this node, any
    /// pair in use is enough.
    fn is_replaced(&self, bytes: &[u8], left: &Disk) -> bool {
        let issued = |pair: usize| self.pairs[pair].chain().certificate().validity.not_before();
        let had = self.pems.iter().position(|pem| **pem == *bytes);
        self.in_use(left).is_some_and(|new| Some(issued(new)) > had.map(issued))
    }

    /// The files from which a program could load a pair: names and contents.
    fn loadable(&self, disk: &Disk) -> Visible {
        let names = disk.visible().into_keys().filter(|name| {
            // A link that is about to become `PREFIX-current.pem`, in client-go too, is no name for readers.
            let is_on_its_way = &**name == UPDATED || name.ends_with(".new") || name.contains(".pem.link");
            !is_on_its_way
        });
        let found = names.filter_map(|name| Some((name.clone(), disk.read(&name).ok()??)));
        found.filter(|(name, bytes)| go_loads(name, bytes, &self.pems)).collect()
    }

    /// Carries out an act on a `Directory`, and records every state of the disk. One run is enough for every loss of
    /// power, since the states before a loss are those of a run without a loss.
    pub(crate) fn run(&self, disk: &Disk, act: Act, fates: Fates) -> Run {
        let volume = Virtual::with_fates(disk.clone(), fates);
        let directory = volume.directory();
        let (mut result, mut record) = (None, None);
        match act {
            Act::Write(pair) => result = directory.write(&self.pairs[pair], NOW).ok().map(|()| Some((pair, true))),
            Act::Recover => {
                result = directory.recover(Some(NODE), NOW).ok().map(|loaded| {
                    let (credential, path) = loaded.credential?;
                    Some((self.number(&credential)?, loaded.in_use && path.extension()? == "pem"))
                });
            }
            Act::Remember(_) => {
                let after = record_after(act).unwrap();
                record = directory.remember(&after).ok().map(|()| after);
            }
        }
        Run { act, seen: volume.seen(), calls: volume.calls(), result, record }
    }

    fn fates(&self, act: Act) -> Fates {
        let Some(mistake) = self.mistake.filter(|mistake| mistake.is_made_in(act)) else {
            return Box::new(|_, _| Fate::Done);
        };
        let mut syncs = 0;
        Box::new(move |_, call| {
            let Call::Op(FileOp::Sync { .. } | FileOp::SyncDir) = call else { return Fate::Done };
            syncs += 1;
            if syncs == mistake.nth { Fate::Skipped } else { Fate::Done }
        })
    }

    /// The most syncs that one act makes, over all initial directories.
    pub(crate) fn most_syncs(starts: fn(&[Vec<u8>]) -> Vec<Found>, act: Act) -> usize {
        let most = Mutex::new(0);
        Self::of_all(starts, None, |explorer, start| {
            let syncs = Arc::new(AtomicUsize::new(0));
            let count = syncs.clone();
            let fates: Fates = Box::new(move |_, call| {
                let sync = matches!(call, Call::Op(FileOp::Sync { .. } | FileOp::SyncDir));
                count.fetch_add(usize::from(sync), Ordering::Relaxed);
                Fate::Done
            });
            explorer.run(&start.disk, act, fates);
            let mut most = most.lock().unwrap();
            *most = syncs.load(Ordering::Relaxed).max(*most);
        });
        most.into_inner().unwrap()
    }

    fn promise(&mut self, disk: &Disk) -> Promise {
        let mut left = disk.outcomes();
        left.insert(disk.clone());
        Promise {
            found: left.iter().map(|disk| self.load(disk)).collect(),
            in_use: left.iter().all(|disk| self.in_use(disk).is_some()),
            records: left.iter().map(record).collect(),
            loadable: {
                let mut each = left.iter().map(|disk| self.loadable(disk));
                let mut all = each.next().unwrap_or_default();
                each.for_each(|other| all.retain(|name, bytes| other.get(name) == Some(bytes)));
                all
            },
        }
    }

    fn load(&mut self, disk: &Disk) -> Option<usize> {
        let there = disk.visible();
        if let Some(known) = self.loads.get(&there) {
            return *known;
        }
        let loaded = Virtual::new(disk.clone()).directory().load(Some(NODE), NOW).unwrap();
        let found = loaded.credential.and_then(|(credential, _)| self.number(&credential));
        self.loads.insert(there, found);
        found
    }

    /// The number of the pair that a reader of `PREFIX-current.pem` finds; `None` if there is none, or an expired one.
    fn in_use(&self, disk: &Disk) -> Option<usize> {
        let bytes = disk.read(CURRENT).ok()??;
        self.pems[..EXPIRED].iter().position(|pem| **pem == *bytes)
    }

    fn number(&self, credential: &Credential) -> Option<usize> {
        self.pairs.iter().position(|pair| pair.chain() == credential.chain())
    }
}

/// The pending record that a reader finds on the disk; `None` if there is none.
fn record(disk: &Disk) -> Option<Arc<[u8]>> {
    disk.read(PENDING).unwrap()
}

/// The pending record that an act writes; `None` if the act writes none.
fn record_after(act: Act) -> Option<Arc<[u8]>> {
    match act {
        Act::Remember(number) => Some(format!("{{ \"number\": {number} }}").into_bytes().into()),
        Act::Recover | Act::Write(_) => None,
    }
}
