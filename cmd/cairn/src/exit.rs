//! How the process ends, for scripts.

/// The process's exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ExitCode {
    /// All went well.
    Success = 0,
    /// The build, or what else the daemon was asked for, failed.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// There is no daemon to talk to.
    Unreachable = 3,
    /// Stopped by the user.
    Cancelled = 130,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
