//! [`Directory::load_settled`]: waits while another program may still be writing a file that contains no pair yet.

use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use perennial::UnixTime;

use super::{Directory, DirectoryError, Loaded, Stamp};

/// Number of reads, spread over [`SPAN`], that must find the unreadable files unchanged before the wait ends.
const READS: u32 = 3;
const SPAN: Duration = Duration::from_secs(5);
/// Longest wait for unreadable files that keep changing.
const LIMIT: Duration = Duration::from_secs(30);

impl Directory {
    /// Reads the directory as [`load`](Self::load) does, for callers that would replace an unreadable pair. Returns at
    /// once if each file that was read contains a pair. Otherwise another program may be writing the files: reads them
    /// again until each contains a pair, until the unreadable files have not changed for five seconds, or until thirty
    /// seconds have passed. Does not wait again for unreadable files that have not changed since an earlier call.
    ///
    /// # Errors
    /// The directory cannot be read. Problems of its files are in [`Loaded::problems`].
    pub fn load_settled(&self, common_name: Option<&str>, now: UnixTime) -> Result<Loaded, DirectoryError> {
        Ok(self.settled(|| Ok((self.load(common_name, now)?, ())))?.0)
    }

    /// Reads the directory as [`load_settled`](Self::load_settled) does, and repairs it as [`recover`](Self::recover)
    /// does.
    pub(super) fn recover_settled(&self, common_name: Option<&str>, now: UnixTime) -> Result<Loaded, DirectoryError> {
        let (loaded, repairs) = self.settled(|| self.plan_recovery(common_name, now))?;
        Ok(self.repair(loaded, repairs))
    }

    /// Calls `read` until the unreadable files have settled. Returns the result of the last call.
    fn settled<T>(
        &self,
        read: impl Fn() -> Result<(Loaded, T), DirectoryError>,
    ) -> Result<(Loaded, T), DirectoryError> {
        let begun = Instant::now();
        let (mut unchanged, mut since, mut reads) = (Vec::new(), begun, 0);
        loop {
            let (loaded, rest) = read()?;
            let stamps = self.stamps_of_unreadable(&loaded)?;
            let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
            if stamps.iter().all(|stamp| settled.contains(stamp)) {
                return Ok((loaded, rest));
            }
            if reads == 0 {
                log(&loaded);
            }
            if stamps != unchanged {
                (unchanged, since, reads) = (stamps, Instant::now(), 0);
            }
            reads += 1;
            if reads >= READS && since.elapsed() >= SPAN || begun.elapsed() >= LIMIT {
                *settled = unchanged;
                return Ok((loaded, rest));
            }
            drop(settled);
            // `READS` reads at this interval take `SPAN`.
            thread::sleep(SPAN / (READS - 1));
        }
    }

    fn stamps_of_unreadable(&self, loaded: &Loaded) -> Result<Vec<Stamp>, DirectoryError> {
        let Some(folder) = self.existing_folder()? else { return Ok(Vec::new()) };
        let unreadable = loaded.problems.iter().filter_map(|problem| match problem {
            DirectoryError::Credential { path, .. } => path.file_name()?.to_str(),
            _ => None,
        });
        Ok(unreadable.filter_map(|name| folder.stamp(name)).collect())
    }
}

fn log(loaded: &Loaded) {
    for problem in loaded.problems.iter().filter(|problem| matches!(problem, DirectoryError::Credential { .. })) {
        tracing::info!("{problem}; reading again for {SPAN:?}, since another program may still be writing the file");
    }
}
