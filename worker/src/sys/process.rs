//! Signals and waiting, free of process id races.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process held by descriptor: its number cannot come to mean another process.
#[derive(Debug)]
pub struct ProcessHandle {
    fd: OwnedFd,
    pid: Pid,
}

impl ProcessHandle {
    /// Opens a process; `None` if there is none of that number.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Some(Self { fd, pid })),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// When the process started, in clock ticks since boot: with the number, its identity across restarts of ours.
    /// `None` once it is gone.
    pub fn start_time(&self) -> Option<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero())).ok()?;
        start_time_field(&stat)
    }

    /// Kills it; already gone is fine.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Sends it a signal; already gone is fine.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it ended, at most so long; tells whether it did. Blocks the thread.
    pub fn wait_ended(&self, limit: std::time::Duration) -> io::Result<bool> {
        let timeout = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&timeout))? > 0)
    }
}

/// Field 22 of `/proc/PID/stat`, counted behind the command name, which may hold blanks and parentheses.
fn start_time_field(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Kills every process of a group that this process started; already gone is fine.
pub fn kill_group(leader: u32) -> io::Result<()> {
    signal_group(leader, Signal::KILL)
}

/// Asks every process of a group that this process started to end; already gone is fine.
pub fn terminate_group(leader: u32) -> io::Result<()> {
    signal_group(leader, Signal::TERM)
}

fn signal_group(leader: u32, signal: Signal) -> io::Result<()> {
    let Some(pid) = i32::try_from(leader).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    match rustix::process::kill_process_group(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes a program start with this umask, whatever the one of this process is, and lets it and each that it starts have
/// so many bytes of memory of its own.
pub fn confine(command: &mut std::process::Command, umask: u32, max_memory: u64) {
    use std::os::unix::process::CommandExt;
    let mask = rustix::fs::Mode::from_raw_mode(umask);
    let limit = rustix::process::Rlimit {
        current: Some(max_memory),
        maximum: Some(max_memory),
    };
    // SAFETY: between fork and exec only system calls are made that allocate nothing and take no lock.
    unsafe {
        command.pre_exec(move || {
            rustix::process::umask(mask);
            Ok(rustix::process::setrlimit(rustix::process::Resource::Data, limit)?)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_survives_odd_command_names() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1 2";
        assert_eq!(start_time_field(stat), Some(777));
    }

    #[test]
    fn confined_programs_have_their_umask_and_no_more_memory() {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "umask; ulimit -d"]);
        confine(&mut command, 0o027, 1 << 30);
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0027\n1048576\n");
    }

    #[test]
    fn a_killed_process_is_seen_to_end() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let handle = ProcessHandle::open(child.id()).unwrap().unwrap();
        assert!(handle.start_time().is_some());
        assert!(!handle.wait_ended(std::time::Duration::ZERO).unwrap());
        handle.kill().unwrap();
        assert!(handle.wait_ended(std::time::Duration::from_secs(10)).unwrap());
        child.wait().unwrap();
    }
}
