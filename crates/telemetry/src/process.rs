//! The process's own readings under the client libraries' names, taken from `/proc` at each scrape. A reading that
//! is not available is absent, never zero.

use std::{fs, path::PathBuf};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

#[derive(Debug)]
pub(crate) struct ProcessCollector {
    root: PathBuf,
}

impl Default for ProcessCollector {
    fn default() -> Self {
        Self { root: "/proc/self".into() }
    }
}

impl ProcessCollector {
    fn resident_bytes(&self) -> Option<i64> {
        let status = fs::read_to_string(self.root.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    fn open_fds(&self) -> Option<i64> {
        // One of them is the directory that is being read.
        i64::try_from(fs::read_dir(self.root.join("fd")).ok()?.count()).ok().map(|count| count - 1)
    }

    fn max_fds(&self) -> Option<i64> {
        let limits = fs::read_to_string(self.root.join("limits")).ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// User and system time in seconds. Field 14 and 15 of `stat`, in ticks of 1/100 s: Linux fixes `USER_HZ` at 100
    /// on every architecture that the node runs on.
    fn cpu_seconds(&self) -> Option<f64> {
        let stat = fs::read_to_string(self.root.join("stat")).ok()?;
        // The second field is the name in parentheses and may hold spaces.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let user: f64 = fields.next()?.parse().ok()?;
        let system: f64 = fields.next()?.parse().ok()?;
        Some((user + system) / 100.0)
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<i64>| {
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge("process_resident_memory_bytes", "Resident memory.", self.resident_bytes())?;
        gauge("process_open_fds", "Open file descriptors.", self.open_fds())?;
        gauge("process_max_fds", "Most file descriptors allowed.", self.max_fds())?;
        if let Some(seconds) = self.cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let help = "User and system CPU time.";
            counter.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_real_and_absent_when_unavailable() {
        let own = ProcessCollector::default();
        assert!(own.resident_bytes().unwrap() > 100_000);
        assert!(own.open_fds().unwrap() >= 3);
        assert!(own.max_fds().unwrap() > own.open_fds().unwrap());
        assert!(own.cpu_seconds().unwrap() >= 0.0);
        let nowhere = ProcessCollector { root: "/nonexistent".into() };
        assert_eq!((nowhere.resident_bytes(), nowhere.open_fds(), nowhere.max_fds()), (None, None, None));
        assert_eq!(nowhere.cpu_seconds(), None);
    }
}
