//! The cost of this process: memory, threads and processor time.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time that all threads of this process have computed so far.
pub fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Resident memory of this process.
///
/// # Errors
/// The file system `/proc` cannot be read, or does not have the number.
pub fn resident_kib() -> io::Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let line = line.ok_or_else(|| io::Error::other("no VmRSS in /proc/self/status"))?;
    line.trim().trim_end_matches(" kB").parse().map_err(io::Error::other)
}

/// Number of threads of this process.
///
/// # Errors
/// The file system `/proc` cannot be read.
pub fn threads() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}
