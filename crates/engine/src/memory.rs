//! How much memory this process and its children may still take.

use std::{fs, path::Path};

use crate::cgroup;

/// Bytes that are available on this machine, or in this process's cgroup if those are fewer. What the kernel would drop
/// first (the cache of files) counts as available. `None` where `/proc` does not tell.
pub(crate) fn available_memory() -> Option<u64> {
    available(Path::new("/"))
}

/// `root` is `/` but for tests.
fn available(root: &Path) -> Option<u64> {
    let machine = field(&root.join("proc/meminfo"), "MemAvailable:").map(|kib| kib.saturating_mul(1024));
    let group = cgroup::least(root, "memory", v2_available, v1_available);
    machine.into_iter().chain(group).min()
}

/// The number after a name in a file of names and numbers.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines().map(str::split_ascii_whitespace);
    lines.find_map(|mut words| (words.next() == Some(name)).then(|| words.next()?.parse().ok())?)
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A limit of "max" is none.
fn v2_available(group: &Path) -> Option<u64> {
    let stat = |name| field(&group.join("memory.stat"), name).unwrap_or(0);
    let cache = stat("file").saturating_sub(stat("shmem"));
    left(number(&group.join("memory.max"))?, number(&group.join("memory.current"))?, cache)
}

/// Without a limit it is a number beyond any machine.
fn v1_available(group: &Path) -> Option<u64> {
    let stat = |name| field(&group.join("memory.stat"), name).unwrap_or(0);
    let cache = stat("total_cache").saturating_sub(stat("total_shmem"));
    left(number(&group.join("memory.limit_in_bytes"))?, number(&group.join("memory.usage_in_bytes"))?, cache)
}

fn left(limit: u64, used: u64, cache: u64) -> Option<u64> {
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)], expected: Option<u64>) {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("creates");
            fs::write(path, text).expect("writes");
        }
        assert_eq!(available(root.path()), expected, "{files:?}");
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:  9 kB\nMemAvailable:   1000 kB\n");

    #[test]
    fn without_a_limit_the_machine_counts() {
        check(&[], None);
        check(&[("proc/meminfo", "MemTotal: 5 kB")], None);
        check(&[MACHINE], Some(1_024_000));
        let unlimited = [
            MACHINE,
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.current", "77\n"),
        ];
        check(&unlimited, Some(1_024_000));
    }

    #[test]
    fn a_limit_counts_without_what_is_used_but_for_the_cache_of_files() {
        let v2 = [
            MACHINE,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "100000\n"),
            ("sys/fs/cgroup/a/memory.current", "60000\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 5\nfile 50000\nshmem 10000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
        ];
        check(&v2, Some(80_000));
        let v1 = [
            MACHINE,
            ("proc/self/cgroup", "4:memory:/docker/x\n"),
            ("sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "1000\n"),
            ("sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", "900\n"),
            ("sys/fs/cgroup/memory/docker/x/memory.stat", "cache 1\ntotal_cache 400\ntotal_shmem 100\n"),
        ];
        check(&v1, Some(400));
        let over = [
            MACHINE,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "10\n"),
            ("sys/fs/cgroup/memory.current", "20\n"),
        ];
        check(&over, Some(0));
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available_memory().is_none_or(|bytes| bytes > 1 << 20));
    }
}
