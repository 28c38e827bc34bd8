//! What the kernel knows about a process: the processor time and the memory that it has used.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The unit of processor time in `/proc`: a hundredth of a second on every Linux that this runs on.
const TICK: Duration = Duration::from_millis(10);
const KIB_PER_MIB: f64 = 1024.0;

/// A process's memory, in MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    /// The most that was resident since the start, or since [`reset_peak`].
    pub(crate) peak: f64,
}

/// Processor time used so far by a process, `"self"` being this one.
pub(crate) fn processor_time(process: impl Display) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The second field is the program's name in parentheses and may contain anything, even spaces.
    let (_, fields) = text.rsplit_once(')').with_context(|| format!("{path} has no program name"))?;
    let tick_counts: Vec<u32> = fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    let [user, system] = tick_counts[..] else { bail!("{path} has no processor times: {text:?}") };
    Ok(TICK * (user + system))
}

/// How much memory a process has.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mib = |field: &str| -> Result<f64> {
        let line =
            text.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("{path} has no {field}"))?;
        let kib: f64 =
            line.trim().trim_end_matches("kB").trim().parse().with_context(|| format!("{path}: {field}{line}"))?;
        Ok(kib / KIB_PER_MIB)
    };
    Ok(Memory { resident: mib("VmRSS:")?, peak: mib("VmHWM:")? })
}

/// Makes a process's peak of memory start again from what is resident now.
pub(crate) fn reset_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    std::fs::write(&path, "5").with_context(|| format!("cannot write {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_forgotten_when_reset() {
        const BLOCK: usize = 64 << 20;
        const BLOCK_MIB: f64 = 64.0;
        let pid = std::process::id();
        let start = memory(pid).unwrap();
        drop(std::hint::black_box(vec![1_u8; BLOCK]));
        let high = memory(pid).unwrap();
        assert!(high.peak > start.resident + BLOCK_MIB / 2.0, "{start:?}, then {high:?}");
        reset_peak(pid).unwrap();
        let low = memory(pid).unwrap();
        assert!(low.peak < high.peak - BLOCK_MIB / 2.0, "{high:?}, after the reset {low:?}");
    }

    #[test]
    fn processor_time_grows_with_work() {
        let start = processor_time("self").unwrap();
        let mut sum = 0_u64;
        while processor_time("self").unwrap() < start + 3 * TICK {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(1));
        }
        assert!(processor_time("no such process").is_err());
    }
}
