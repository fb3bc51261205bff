//! What a process has used, as Linux tells it under `/proc` (proc(5)).

use std::{fs, time::Duration};

/// What a process has used since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, in user and in kernel mode.
    pub processor: Duration,
    /// Bytes that are resident now.
    pub resident: u64,
    /// Bytes that were resident at the most.
    pub peak: u64,
    /// How often one of its threads was given a processor.
    pub switches: u64,
}

impl Usage {
    /// What the process with this number has used; `None` where there is none.
    pub fn of(process: u32) -> Option<Self> {
        let folder = format!("/proc/{process}");
        let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
        // The name of the program stands in parentheses, and may hold anything.
        let after = stat.rsplit_once(')')?.1;
        let mut fields = after.split_ascii_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        let ticks = ticks()? + ticks()?;
        let status = fs::read_to_string(format!("{folder}/status")).ok()?;
        let kilobytes = |name| Some(1024 * number(&status, name)?);
        let mut switches = 0;
        for thread in fs::read_dir(format!("{folder}/task")).ok()? {
            let Ok(status) = fs::read_to_string(thread.ok()?.path().join("status")) else {
                continue;
            };
            switches += number(&status, "voluntary_ctxt_switches:")?;
            switches += number(&status, "nonvoluntary_ctxt_switches:")?;
        }
        Some(Self {
            processor: Duration::from_secs(ticks)
                / u32::try_from(rustix::param::clock_ticks_per_second()).ok()?,
            resident: kilobytes("VmRSS:")?,
            peak: kilobytes("VmHWM:")?,
            switches,
        })
    }
}

fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_time_and_memory() {
        let before = Usage::of(std::process::id()).unwrap();
        let mut held = Vec::new();
        while Usage::of(std::process::id()).unwrap().processor == before.processor {
            held.extend(std::iter::repeat_n(1_u8, 1 << 20));
        }
        let after = Usage::of(std::process::id()).unwrap();
        assert!(after.processor > before.processor);
        assert!(
            after.peak >= after.resident && after.resident > 0,
            "{after:?}"
        );
        assert!(!held.is_empty());
        assert_eq!(Usage::of(u32::MAX), None);
    }
}
