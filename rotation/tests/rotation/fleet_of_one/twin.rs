//! A rotation alone, or a fleet of one member, with the runtime that drives it.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use perennial::{Instant, Now, UnixTime};
use perennial_pki::Credential;
use perennial_rotation::{
    Exchange, Fleet, FleetTask, Handle, Job, Limits, LoadRequest, Reporter, Rotator, Signer, Snapshot, Store,
    StoreError, Stored, Task, Wait, Work,
};
use zeroize::Zeroizing;

use super::world::World;
use super::{HOUR, policy, template};

/// A store that holds a pair at the start.
struct Disk {
    world: Arc<World>,
    held: Option<Arc<Credential>>,
    /// The pairs that were written, and the last record, without its key.
    contents: Mutex<(Vec<String>, String)>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl Store for Disk {
    fn load(&self, _: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        Ok(Stored { credential: self.held.clone(), ..Stored::default() })
    }

    fn write(&self, credential: &Arc<Credential>, serve: bool, at: UnixTime) -> Result<(), StoreError> {
        let line = format!("{}, serve {serve}, at {at}", shown(Some(credential)));
        self.contents.lock().unwrap().0.push(line);
        self.world.store_works.load(Ordering::SeqCst).then_some(()).ok_or_else(|| "no space".into())
    }

    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(None)
    }

    fn remember(&self, record: &[u8]) -> Result<(), StoreError> {
        // The key is the last field.
        let text = str::from_utf8(record).unwrap();
        self.contents.lock().unwrap().1 = text.split("\"key\"").next().unwrap_or_default().to_owned();
        Ok(())
    }
}

fn shown(credential: Option<&Arc<Credential>>) -> String {
    let Some(credential) = credential else { return "none".to_owned() };
    let certificate = credential.chain().certificate();
    let names: Vec<_> = certificate.names.dns_names().collect();
    format!("{} {names:?} {:?}", certificate.common_name(), certificate.validity)
}

/// The task of a rotation alone, or of a fleet of one.
pub(super) enum Loop {
    Alone(Box<Task>),
    Fleet(Box<FleetTask>, #[expect(dead_code, reason = "the last clone closes the fleet")] Fleet),
}

impl Loop {
    fn step(&mut self, now: Now) -> Vec<Work> {
        match self {
            Self::Alone(task) => task.step(now),
            Self::Fleet(task, _) => task.step(now).into_iter().map(|(_, work)| work).collect(),
        }
    }

    fn arrival(&self) -> Wait<'static, ()> {
        match self {
            Self::Alone(task) => task.arrival(),
            Self::Fleet(task, _) => task.arrival(),
        }
    }

    /// True once the rotation has ended. A runtime drops the task of a rotation alone then.
    pub(super) fn is_over(&self, handle: &Handle) -> bool {
        match self {
            Self::Alone(task) => task.is_over(),
            Self::Fleet(..) => handle.has_ended(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Alone(task) => task.deadline(),
            Self::Fleet(task, _) => task.deadline(),
        }
    }
}

/// All that is to be equal. The credentials are apart, since the keys differ.
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    work: Vec<&'static str>,
    is_driving: bool,
    contents: (Vec<String>, String),
    snapshot: Snapshot,
    pairs: [String; 2],
    is_over: bool,
}

/// One of the two rotations, and what its runtime has been given to do.
pub(super) struct Twin {
    pub(super) handle: Handle,
    pub(super) run: Loop,
    disk: Arc<Disk>,
    /// The exchange that is driven, and those that were dropped: the code of one that has begun may still report.
    pub(super) driven: Option<(Exchange, Reporter)>,
    pub(super) dropped: Vec<(Exchange, Reporter)>,
    /// The calls to the store that hang.
    jobs: Vec<Job>,
    /// The exchanges that were begun and cancelled since the last comparison.
    work: Vec<&'static str>,
}

impl Twin {
    pub(super) fn new(
        is_alone: bool,
        world: &Arc<World>,
        held: Option<Arc<Credential>>,
        signer: Option<Arc<dyn Signer>>,
    ) -> Self {
        let disk = Arc::new(Disk { world: world.clone(), held, contents: Mutex::default() });
        let mut rotator = Rotator::new().template(template(0)).policy(policy(HOUR / 4)).store(disk.clone());
        if let Some(signer) = signer {
            rotator = rotator.signer(signer);
        }
        let (handle, run) = match is_alone {
            true => rotator.prepare().map(|(handle, task)| (handle, Loop::Alone(Box::new(task)))).unwrap(),
            false => {
                let (fleet, task) = Fleet::prepare(Limits { in_flight: 1.try_into().unwrap(), ..Limits::default() });
                (fleet.add(rotator).unwrap(), Loop::Fleet(Box::new(task), fleet))
            }
        };
        Self { handle, run, disk, driven: None, dropped: vec![], jobs: vec![], work: vec![] }
    }

    /// Steps until no message is left.
    pub(super) fn step(&mut self, now: Now) {
        for turn in 0.. {
            assert!(turn < 20, "the loop spins at {now:?}");
            for work in self.run.step(now) {
                match work {
                    Work::Drive(exchange, reporter) => {
                        assert!(self.driven.is_none(), "two exchanges are driven");
                        self.driven = Some((exchange, reporter));
                        self.work.push("drive");
                    }
                    Work::Cancel => {
                        self.dropped.extend(self.driven.take());
                        self.work.push("cancel");
                    }
                    Work::Store(job) => self.jobs.push(job),
                }
            }
            if !self.disk.world.store_hangs.load(Ordering::SeqCst) {
                self.jobs.drain(..).for_each(Job::run);
            }
            if pin!(self.run.arrival()).poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                return;
            }
        }
    }

    pub(super) fn seen(&mut self) -> Seen {
        let snapshot = self.handle.snapshot();
        let pairs = [&snapshot.credential, &snapshot.waiting].map(|pair| shown(pair.as_ref()));
        let mut snapshot = Snapshot::clone(&snapshot);
        (snapshot.credential, snapshot.waiting) = (None, None);
        // A request that waits for its turn, and is withdrawn in the same step, is a change of a moment.
        snapshot.at = Now::default();
        Seen {
            work: std::mem::take(&mut self.work),
            is_driving: self.driven.is_some(),
            contents: self.disk.contents.lock().unwrap().clone(),
            snapshot,
            pairs,
            is_over: self.run.is_over(&self.handle),
        }
    }
}
