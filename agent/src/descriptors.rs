//! The limit of open files (`RLIMIT_NOFILE`).

use std::io;

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

/// Adds the limit to an error that the limit of open files has caused. Returns other errors unchanged.
pub(crate) fn with_limit(why: String) -> String {
    match getrlimit(Resource::Nofile).current {
        Some(most) if why.contains(&io::Error::from(Errno::MFILE).to_string()) => format!(
            "{why}; the limit of open files is {most}, and each certificate needs one: raise the limit (ulimit -n, \
             LimitNOFILE)"
        ),
        _ => why,
    }
}
