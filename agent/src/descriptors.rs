//! The limit of open files (`RLIMIT_NOFILE`).

use std::error::Error;
use std::io;
use std::iter;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit that [`raise_limit`] sets, unless the hard limit is lower. A list of 10,000 certificates needs less.
/// Not the hard limit, which may be 2^30: commands after a rotation inherit the limit, and some programs close every
/// descriptor below it.
const ENOUGH: u64 = 65_536;

/// Raises the soft limit of open files, which usually is 1024: each certificate of a list holds a descriptor.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(ENOUGH, |most| most.min(ENOUGH));
    if limit.current.is_some_and(|current| current < wanted) {
        // Best effort: with fewer descriptors, fewer certificates can be rotated, and an error names the limit.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit });
    }
}

/// True if the limit of open files has caused the error.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::MFILE.raw_os_error())
}

/// The text of an error. Adds the limit of open files if it has caused the error or one of its sources.
pub(crate) fn with_limit(error: &(dyn Error + 'static)) -> String {
    let mut causes = iter::successors(Some(error), |&error| error.source());
    match getrlimit(Resource::Nofile).current {
        Some(most) if causes.any(|cause| cause.downcast_ref().is_some_and(is_refusal)) => format!(
            "{error}; the limit of open files is {most}, and each certificate needs one: raise the limit (ulimit -n, \
             LimitNOFILE)"
        ),
        _ => error.to_string(),
    }
}
