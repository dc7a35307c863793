//! Why a command did not do what it was asked to, and the exit code that says so.

use std::fmt;
use std::process::ExitCode;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It was asked for something that cannot be done as asked: exit code 2. Nothing was changed.
    #[error("{0}")]
    Usage(String),
    /// It was tried, and did not work: exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// Bad usage or input, with the message of this error.
    pub(crate) fn usage(error: impl fmt::Display) -> Self {
        Self::Usage(error.to_string())
    }

    /// The system has no thread to give.
    pub(crate) fn no_thread(of: &str, error: &std::io::Error) -> Self {
        Self::Failed(format!(
            "cannot start a thread for {of}: {error}; raise the limit of processes and threads (ulimit -u, TasksMax)"
        ))
    }

    /// The system has no descriptor to give.
    pub(crate) fn no_descriptor(of: &str, error: &std::io::Error) -> Self {
        Self::Failed(format!("cannot set up {of}: {error}; raise the limit of open files (ulimit -n, LimitNOFILE)"))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::FAILURE,
        }
    }
}
