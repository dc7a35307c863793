//! A virtual disk that a credential directory uses as its [`Volume`]. Records every state of the disk. The test chooses
//! which calls to the disk fail.

use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use perennial::UnixTime;
use perennial::store::{FileOp, Layout, Listing};
use perennial_rotation::Directory;
use perennial_rotation::volume::{Contents, Folder, Volume};

use super::{Disk, PATH, join};

/// The prefix of the files' names in the credential directory.
pub const PREFIX: &str = "kubelet-client";
/// The current time in tests with virtual disks. Every `pair` is valid then.
pub const NOW: UnixTime = UnixTime::from_secs(1_767_225_600);

/// A call to the virtual disk. The test chooses the outcome of the call.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// Opens the directory.
    Open,
    /// Lists the directory.
    List,
    /// Reads the file of this name.
    Read(&'a str),
    /// Carries out this operation.
    Op(&'a FileOp),
    /// Creates the folder of this name.
    CreateFolder(&'a str),
    /// Removes the folder of this name.
    RemoveFolder(&'a str),
}

/// The outcome of a call to the virtual disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The disk carries the call out, and returns success.
    Done,
    /// The disk returns success, but does nothing.
    Skipped,
    /// The disk returns this error and does nothing.
    Failed(ErrorKind),
    /// The disk carries the call out, but returns this error.
    DoneAndFailed(ErrorKind),
}

/// A function that chooses the outcome of each call to the virtual disk. The arguments are the number of the call,
/// counted from 0, and the call.
pub type Fates = Box<dyn FnMut(usize, Call<'_>) -> Fate + Send>;

/// A virtual disk as a [`Volume`]. Clones share one disk.
#[derive(Clone)]
pub struct Virtual(Arc<Mutex<State>>);

struct State {
    disk: Disk,
    seen: Vec<Disk>,
    calls: usize,
    fates: Fates,
}

impl Virtual {
    /// A volume that carries out every call.
    pub fn new(disk: Disk) -> Self {
        Self::with_fates(disk, Box::new(|_, _| Fate::Done))
    }

    /// A volume on which `fates` chooses the outcome of each call.
    pub fn with_fates(disk: Disk, fates: Fates) -> Self {
        let seen = vec![disk.clone()];
        Self(Arc::new(Mutex::new(State { disk, seen, calls: 0, fates })))
    }

    /// The credential directory on this volume.
    pub fn directory(&self) -> Directory {
        Directory::on(Box::new(self.clone()), PathBuf::from(PATH), Layout::new(PREFIX).unwrap())
    }

    /// The disk as it is now.
    pub fn disk(&self) -> Disk {
        self.state().disk.clone()
    }

    /// Every state of the disk since the start, including the initial one.
    pub fn seen(&self) -> Vec<Disk> {
        self.state().seen.clone()
    }

    /// Lets `fates` choose the outcome of each call from now on.
    pub fn set_fates(&self, fates: Fates) {
        self.state().fates = fates;
    }

    /// The number of calls so far.
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn call<T>(&self, call: Call<'_>, skipped: T, act: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.state();
        let number = state.calls;
        state.calls += 1;
        match (state.fates)(number, call) {
            Fate::Done => act(&mut state),
            Fate::Skipped => Ok(skipped),
            Fate::Failed(kind) => Err(kind.into()),
            Fate::DoneAndFailed(kind) => act(&mut state).and_then(|_| Err(Error::from(kind))),
        }
    }
}

impl fmt::Debug for Virtual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Virtual").finish_non_exhaustive()
    }
}

impl Volume for Virtual {
    fn open(&self) -> Result<Box<dyn Folder + '_>> {
        self.call(Call::Open, (), |_| Ok(()))?;
        Ok(Box::new(self.clone()))
    }
}

impl Folder for Virtual {
    fn list(&self) -> Result<Listing> {
        self.at("").list()
    }

    fn read(&self, name: &str) -> Result<Option<Contents>> {
        self.at("").read(name)
    }

    fn execute(&self, op: &FileOp, contents: &[u8]) -> Result<()> {
        self.at("").execute(op, contents)
    }

    fn folder(&self, name: &str) -> Result<Box<dyn Folder + '_>> {
        self.at("").into_folder(name)
    }

    fn create_folder(&self, name: &str) -> Result<()> {
        self.at("").create_folder(name)
    }

    fn remove_folder(&self, name: &str) -> Result<()> {
        self.at("").remove_folder(name)
    }

    fn link_target(&self, name: &str) -> Result<Option<String>> {
        self.at("").link_target(name)
    }
}

/// A folder of a virtual disk, as a volume of its own.
#[derive(Clone, Debug)]
pub struct VirtualFolder {
    disk: Virtual,
    name: String,
}

impl Virtual {
    /// The folder of this name, which need not exist; the directory itself if the name is empty.
    pub fn at(&self, folder: &str) -> VirtualFolder {
        VirtualFolder { disk: self.clone(), name: folder.into() }
    }
}

impl VirtualFolder {
    fn into_folder<'a>(self, name: &str) -> Result<Box<dyn Folder + 'a>> {
        let exists = self.disk.call(Call::Open, false, |state| Ok(state.disk.has_folder(name)))?;
        let folder = Self { disk: self.disk, name: name.into() };
        if exists { Ok(Box::new(folder)) } else { Err(ErrorKind::NotFound.into()) }
    }
}

impl Volume for VirtualFolder {
    fn open(&self) -> Result<Box<dyn Folder + '_>> {
        let name = self.name.clone();
        self.clone().into_folder(&name)
    }

    fn create(&self) -> Result<()> {
        let exists = self.disk.state().disk.has_folder(&self.name);
        if exists {
            return Ok(());
        }
        // The folder is durable, as those that perennial creates.
        Folder::create_folder(&self.disk, &self.name)?;
        self.disk.execute(&FileOp::SyncDir, &[])
    }
}

impl Folder for VirtualFolder {
    fn list(&self) -> Result<Listing> {
        self.disk.call(Call::List, Listing::default(), |state| Ok(state.disk.list_in(&self.name)))
    }

    fn read(&self, name: &str) -> Result<Option<Contents>> {
        let contents = |bytes: Arc<[u8]>| Contents { bytes: bytes.to_vec().into(), exposed: false };
        self.disk.call(Call::Read(name), None, |state| Ok(state.disk.read(&join(&self.name, name))?.map(contents)))
    }

    fn execute(&self, op: &FileOp, contents: &[u8]) -> Result<()> {
        self.disk.call(Call::Op(op), (), |state| {
            let State { disk, seen, .. } = state;
            disk.execute_in(&self.name, op, contents, |state| seen.push(state.clone()))
        })
    }

    fn folder(&self, name: &str) -> Result<Box<dyn Folder + '_>> {
        self.clone().into_folder(&join(&self.name, name))
    }

    fn create_folder(&self, name: &str) -> Result<()> {
        self.disk.call(Call::CreateFolder(name), (), |state| {
            state.disk.create_folder(&join(&self.name, name))?;
            state.seen.push(state.disk.clone());
            Ok(())
        })
    }

    fn remove_folder(&self, name: &str) -> Result<()> {
        self.disk.call(Call::RemoveFolder(name), (), |state| {
            state.disk.remove_folder(&join(&self.name, name))?;
            state.seen.push(state.disk.clone());
            Ok(())
        })
    }

    fn link_target(&self, name: &str) -> Result<Option<String>> {
        let path = join(&self.name, name);
        self.disk.call(Call::Read(name), None, |state| Ok(state.disk.link_text(&path).map(Into::into)))
    }
}
