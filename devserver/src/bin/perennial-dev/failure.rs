//! Failures of a command, with their exit codes.

use std::fmt;
use std::process::ExitCode;

/// Failure of a command.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Bad usage or input: exit code 2. Nothing was changed.
    Usage(String),
    /// An attempt that did not succeed: exit code 1.
    Failed(String),
}

impl Failure {
    /// Bad usage or input, in the words of `error`.
    pub(crate) fn usage(error: impl fmt::Display) -> Self {
        Self::Usage(error.to_string())
    }

    /// An attempt that did not succeed, in the words of `error`.
    pub(crate) fn failed(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(why) | Self::Failed(why)) = self;
        f.write_str(why)
    }
}
