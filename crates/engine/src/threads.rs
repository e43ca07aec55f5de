//! How many compute threads this process may use.

use std::{fs, path::Path};

use crate::cgroup;

/// Threads that the CPU quota of this process's cgroup pays for, or the processors that it may run on if those are
/// fewer; at least 1.
///
/// A quota of 1.5 processors gives 1: compute threads that wait for each other at every layer lose more by being
/// throttled than a half processor gains.
#[must_use]
pub fn available_threads() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    quota_threads(Path::new("/")).map_or(processors, |quota| quota.min(processors))
}

/// The quota's whole processors, at least 1; `None` without a quota. `root` is `/` but for tests.
fn quota_threads(root: &Path) -> Option<u32> {
    // Truncation is meant: see above.
    cgroup::least(root, "cpu", v2_quota, v1_quota).map(|quota| (quota as u32).max(1))
}

/// `cpu.max`: "quota period" in microseconds, or "max period".
fn v2_quota(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    processors(quota, period)
}

/// `cpu.cfs_quota_us` is -1 without a quota.
fn v1_quota(group: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    processors(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
}

fn processors(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)], expected: Option<u32>) {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("creates");
            fs::write(path, text).expect("writes");
        }
        assert_eq!(quota_threads(root.path()), expected, "{files:?}");
    }

    const MEMBER: &str = "proc/self/cgroup";

    #[test]
    fn without_a_quota_there_is_none() {
        check(&[], None);
        check(&[(MEMBER, "nonsense")], None);
        check(&[(MEMBER, "0::/")], None);
        check(&[(MEMBER, "0::/a\n"), ("sys/fs/cgroup/a/cpu.max", "max 100000\n")], None);
        check(&[(MEMBER, "0::/a\n"), ("sys/fs/cgroup/a/cpu.max", "200000 0\n")], None);
        check(&[(MEMBER, "0::/a\n"), ("sys/fs/cgroup/a/cpu.max", "garbage\n")], None);
        check(
            &[
                (MEMBER, "4:cpu,cpuacct:/a\n"),
                ("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1"),
                ("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000"),
            ],
            None,
        );
    }

    #[test]
    fn the_smallest_quota_of_all_ancestors_counts() {
        check(&[(MEMBER, "0::/a/b\n"), ("sys/fs/cgroup/a/b/cpu.max", "400000 100000")], Some(4));
        check(
            &[
                (MEMBER, "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/cpu.max", "max 100000"),
                ("sys/fs/cgroup/a/cpu.max", "250000 100000\n"),
            ],
            Some(2),
        );
        check(&[(MEMBER, "0::/a\n"), ("sys/fs/cgroup/a/cpu.max", "50000 100000")], Some(1));
        // In a container the path is the host's.
        check(&[(MEMBER, "0::/host/only\n"), ("sys/fs/cgroup/cpu.max", "300000 100000")], Some(3));
        check(&[(MEMBER, "0::/../../up\n"), ("sys/fs/cgroup/cpu.max", "300000 100000")], Some(3));
    }

    #[test]
    fn version_one_hierarchies_are_read_too() {
        for mount in ["cpu,cpuacct", "cpu"] {
            check(
                &[
                    (MEMBER, "9:memory:/m\n4:cpu,cpuacct:/docker/x\n"),
                    (&format!("sys/fs/cgroup/{mount}/docker/x/cpu.cfs_quota_us"), "300000\n"),
                    (&format!("sys/fs/cgroup/{mount}/docker/x/cpu.cfs_period_us"), "100000\n"),
                ],
                Some(3),
            );
        }
    }

    #[test]
    fn this_machine_has_at_least_one_thread() {
        assert!(available_threads() >= 1);
    }
}
