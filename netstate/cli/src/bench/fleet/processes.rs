//! The servers as processes of this machine: what they use, and the end of one of them.

use std::{fs, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::Failure;

/// The unit of processor time in `/proc`: a hundredth of a second on every Linux that this runs on.
const TICK: Duration = Duration::from_millis(10);

/// Processes of this machine, by id.
#[derive(Clone, Debug)]
pub(super) struct Processes(Vec<Pid>);

/// What all of them use together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    /// Processor time since they started.
    pub(super) processor: Duration,
    pub(super) resident: u64,
    /// The most that was resident, of each, since it started or since [`Processes::forget_peaks`].
    pub(super) peak: u64,
}

impl Processes {
    pub(super) fn new(ids: &[u32]) -> Result<Self, Failure> {
        let pid = |id: &u32| i32::try_from(*id).ok().and_then(Pid::from_raw);
        let pids: Option<Vec<Pid>> = ids.iter().map(pid).collect();
        let processes = Processes(pids.ok_or_else(|| Failure::usage("--pids are process ids, from 1"))?);
        processes.used().map(|_| processes.clone())
    }

    /// What they use now.
    pub(super) fn used(&self) -> Result<Use, Failure> {
        let mut sum = Use::default();
        for pid in &self.0 {
            let (processor, resident, peak) = used(*pid)
                .ok_or_else(|| Failure::because(format!("/proc says nothing of process {}", pid.as_raw_pid())))?;
            sum.processor += processor;
            sum.resident += resident;
            sum.peak += peak;
        }
        Ok(sum)
    }

    /// Makes peaks start again from what is resident now.
    pub(super) fn forget_peaks(&self) {
        for pid in &self.0 {
            // Where it may not be done, the peak is that since the start, which is no less.
            let _ = fs::write(format!("/proc/{}/clear_refs", pid.as_raw_pid()), "5");
        }
    }

    /// Ends the last of them as `kill -9` does.
    pub(super) fn kill_last(&mut self) -> Result<(), Failure> {
        let pid = self.0.pop().ok_or_else(|| Failure::usage("--kill needs --pids"))?;
        kill_process(pid, Signal::KILL)
            .map_err(|error| Failure::because(format!("process {} could not be killed: {error}", pid.as_raw_pid())))
    }
}

fn used(pid: Pid) -> Option<(Duration, u64, u64)> {
    let pid = pid.as_raw_pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may contain anything, even spaces.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: Vec<u32> = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    let [user, system] = ticks[..] else { return None };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some((TICK * (user + system), bytes("VmRSS:")?, bytes("VmHWM:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_uses_is_known() {
        let mut own = Processes::new(&[std::process::id()]).unwrap();
        let used = own.used().unwrap();
        assert!(used.resident > 0 && used.peak >= used.resident);
        own.0.clear();
        assert!(own.kill_last().is_err());
        assert!(Processes::new(&[u32::MAX]).is_err());
    }
}
