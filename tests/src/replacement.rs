//! Imitations of programs that replace files: kubelet, cert-manager, certbot, and shell scripts. A test can run them
//! step by step.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use perennial::UnixTime;
use perennial_rotation::clock;

/// Files by name. A program writes the contents of each file in several pieces, one after the other.
pub type Files = Vec<(&'static str, Vec<String>)>;

/// A step of a program. The argument is the modification time of the files that the step writes. The program does
/// nothing between two steps.
pub type Step = Box<dyn FnOnce(UnixTime)>;

/// The way in which a program replaces files.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// Replaces all files at once, as kubelet's atomic writer does: writes them into a new directory, lets the link
    /// `..data` lead to that directory, and removes the old directory.
    Volume,
    /// Replaces one file after the other: writes a new file beside the old one, and renames it into place.
    Renames,
    /// Replaces one file after the other, as certbot does: writes a new file into another directory, and lets the link
    /// lead to the new file.
    Links,
    /// Replaces one file after the other: truncates the file and writes it piece by piece, as `cat key chain > file` in
    /// a script does.
    InPlace,
    /// Replaces one file after the other: removes the file, and writes a new one piece by piece.
    Anew,
}

impl Way {
    /// All ways.
    pub const ALL: [Self; 5] = [Self::Volume, Self::Renames, Self::Links, Self::InPlace, Self::Anew];

    /// True if a reader finds each file complete at any time, even between two steps.
    pub const fn is_whole(self) -> bool {
        matches!(self, Self::Volume | Self::Renames | Self::Links)
    }

    /// The steps that replace the files in `directory`, or create them if they do not exist.
    ///
    /// # Panics
    /// A step panics if the directory cannot be written to.
    pub fn steps(self, directory: &Path, files: &Files) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        // A name that no earlier directory has.
        static GENERATION: AtomicUsize = AtomicUsize::new(0);
        let generation = format!("..{}", GENERATION.fetch_add(1, Ordering::Relaxed));
        let new = directory.join(&generation);
        if matches!(self, Self::Volume | Self::Links) {
            let new = new.clone();
            steps.push(Box::new(move |_| fs::create_dir_all(new).unwrap()));
        }
        for (name, pieces) in files {
            let path = directory.join(name);
            match self {
                Self::Volume => steps.extend(pieces_in(&new.join(name), pieces)),
                Self::Renames => {
                    let beside = directory.join(format!("{name}.new"));
                    steps.extend(pieces_in(&beside, pieces));
                    steps.push(Box::new(move |_| fs::rename(beside, path).unwrap()));
                }
                Self::Links => {
                    steps.extend(pieces_in(&new.join(name), pieces));
                    let target = Path::new(&generation).join(name);
                    steps.push(Box::new(move |_| switch(&path, &target)));
                }
                Self::InPlace => steps.extend(pieces_in(&path, pieces)),
                Self::Anew => {
                    let old = path.clone();
                    steps.push(Box::new(move |_| drop(fs::remove_file(old))));
                    steps.extend(pieces_in(&path, pieces));
                }
            }
        }
        if let Self::Volume = self {
            let data = directory.join("..data");
            let old = fs::read_link(&data).map(|old| directory.join(old));
            steps.push(Box::new(move |_| switch(&data, Path::new(&generation))));
            for name in files.iter().map(|(name, _)| *name).filter(|name| !directory.join(name).exists()) {
                let link = directory.join(name);
                steps.push(Box::new(move |_| symlink(Path::new("..data").join(name), link).unwrap()));
            }
            if let Ok(old) = old {
                steps.push(Box::new(move |_| fs::remove_dir_all(old).unwrap()));
            }
        }
        steps
    }

    /// Takes all steps at once. Sets the modification time of each file to a minute ago.
    ///
    /// # Panics
    /// The directory cannot be written to.
    pub fn replace(self, directory: &Path, files: &Files) {
        let at = clock::now().unix.before(Duration::from_secs(60));
        self.steps(directory, files).into_iter().for_each(|step| step(at));
    }
}

/// Writes a file in place, and sets its modification time to a minute ago, so that readers count the file as complete.
///
/// # Panics
/// The file cannot be written.
pub fn write_at_rest(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).unwrap();
    set_modified(path, clock::now().unix.before(Duration::from_secs(60)));
}

/// The steps that truncate a file, or create it, and append the pieces one by one.
fn pieces_in(path: &Path, pieces: &[String]) -> Vec<Step> {
    let path: PathBuf = path.to_owned();
    let truncated = path.clone();
    let mut steps: Vec<Step> = vec![Box::new(move |at| {
        File::create(&truncated).unwrap();
        set_modified(&truncated, at);
    })];
    for piece in pieces {
        let (path, piece) = (path.clone(), piece.clone());
        steps.push(Box::new(move |at| {
            File::options().append(true).open(&path).unwrap().write_all(piece.as_bytes()).unwrap();
            set_modified(&path, at);
        }));
    }
    steps
}

fn set_modified(path: &Path, at: UnixTime) {
    let since = Duration::from_millis(u64::try_from(at.as_millis()).unwrap());
    File::options().append(true).open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH + since).unwrap();
}

/// Makes a link, or replaces it, in one step.
fn switch(link: &Path, target: &Path) {
    let mut beside = link.as_os_str().to_owned();
    beside.push("_tmp");
    symlink(target, &beside).unwrap();
    fs::rename(&beside, link).unwrap();
}
