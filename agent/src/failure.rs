//! The error of a command, and its exit code.

use std::fmt;
use std::process::ExitCode;

/// The error of a command. Its text is printed after `perennial: `, and names the next step.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Bad usage or input, exit code 2. Nothing was changed.
    #[error("{0}")]
    Usage(String),
    /// The command was tried and failed, exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// Wraps an error as [`Failure::Usage`] with its text.
    pub(crate) fn usage(error: impl fmt::Display) -> Self {
        Self::Usage(error.to_string())
    }

    /// The error for a thread that the system refused to start; `of` names the thread's purpose.
    pub(crate) fn no_thread(of: &str, error: &std::io::Error) -> Self {
        Self::Failed(format!(
            "cannot start a thread for {of}: {error}; raise the limit of processes and threads (ulimit -u, TasksMax)"
        ))
    }

    /// The error for a file descriptor that the system refused; `of` names the purpose.
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
