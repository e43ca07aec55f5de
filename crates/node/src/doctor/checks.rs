//! The checks.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use engine::models;
use rustix::{
    fs::statvfs,
    process::{Resource, getrlimit},
};

use super::Check;
use crate::{
    config::{Config, Engine, value::ByteSize},
    data_dir::DataDir,
    model,
    progress::Steps,
};

/// Open files below which many clients do not fit.
const OPEN_FILES_MIN: u64 = 4096;
/// Free space below which the database is in danger.
const DISK_FREE_FAIL: u64 = 64 << 20;
/// Free space below which a model will not fit.
const DISK_FREE_WARN: u64 = 2 << 30;
/// 2025-01-01: this program is younger.
const EARLIEST_SANE_UNIX_SECS: u64 = 1_735_689_600;

/// The default build of the engine needs these (llama.cpp's default x86-64 kernels).
pub(super) fn cpu_features() -> Check {
    const NAME: &str = "CPU features";
    #[cfg(target_arch = "x86_64")]
    {
        let needed = [
            ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
            ("FMA", std::arch::is_x86_feature_detected!("fma")),
            ("F16C", std::arch::is_x86_feature_detected!("f16c")),
            ("BMI2", std::arch::is_x86_feature_detected!("bmi2")),
        ];
        let missing: Vec<&str> = needed.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            return Check::fail(
                NAME,
                format!("this CPU has no {}", missing.join(", ")),
                "build on this machine with RUSTFLAGS='-C target-cpu=native', or use engine.kind = \"upstream\"",
            );
        }
    }
    Check::ok(NAME, "the engine's kernels run here")
}

pub(super) fn open_files() -> Check {
    const NAME: &str = "open files";
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < OPEN_FILES_MIN => Check::warn(
            NAME,
            format!("the limit is {limit}; each connection takes one"),
            "raise it: `ulimit -n 65536`, or LimitNOFILE=65536 in the systemd unit",
        ),
        Some(limit) => Check::ok(NAME, format!("the limit is {limit}")),
        None => Check::ok(NAME, "there is no limit"),
    }
}

/// A clock that is far off breaks every token.
pub(super) fn clock() -> Check {
    const NAME: &str = "clock";
    let secs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    if secs < EARLIEST_SANE_UNIX_SECS {
        return Check::fail(
            NAME,
            "the clock is years behind: tokens will seem to be from the future",
            "set it, and run an NTP service",
        );
    }
    // systemd-timesyncd touches this file when it has synchronised; other services leave no such trace.
    match fs::metadata("/run/systemd/timesync/synchronized") {
        Ok(_) => Check::ok(NAME, "synchronised by systemd-timesyncd"),
        Err(_) => Check::ok(NAME, "plausible; whether it is synchronised is not known here (`timedatectl` may tell)"),
    }
}

pub(super) fn secret(config: &Config, dir: &DataDir) -> Check {
    const NAME: &str = "token secret";
    if !config.auth.enabled {
        return Check::warn(
            NAME,
            "auth.enabled = false: no tokens are asked for",
            "set it to true before anybody else can reach this machine",
        );
    }
    if config.auth.jwt_secret.is_some() {
        return Check::ok(NAME, "from the configuration");
    }
    let path = dir.jwt_secret();
    match fs::metadata(&path) {
        Err(_) => Check::ok(NAME, "will be generated at the first start"),
        Ok(found) if found.permissions().mode() & 0o077 != 0 => Check::fail(
            NAME,
            format!("{} can be read by others", path.display()),
            format!(
                "chmod 600 {}; if others had access, delete it: a new one is generated, and all tokens end",
                path.display()
            ),
        ),
        Ok(_) => match auth::Secrets::generated(path) {
            Ok(_) => Check::ok(NAME, "private and long enough"),
            Err(error) => {
                Check::fail(NAME, error.to_string(), "delete the file: a new one is generated, and all tokens end")
            }
        },
    }
}

/// Conversations, tokens' secret and usage are in there.
pub(super) fn private(path: &Path) -> Check {
    const NAME: &str = "permissions";
    match fs::metadata(path).map(|found| found.permissions().mode() & 0o777) {
        Ok(mode) if mode & 0o077 != 0 => Check::warn(
            NAME,
            format!("other users can look into {} (mode {mode:o})", path.display()),
            format!("chmod 700 {}", path.display()),
        ),
        Ok(_) => Check::ok(NAME, "the data directory is private"),
        Err(error) => Check::warn(NAME, format!("{}: {error}", path.display()), "look with `ls -ld`"),
    }
}

pub(super) fn disk(path: &Path) -> Check {
    const NAME: &str = "disk space";
    match statvfs(path) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let text = format!("{} free", ByteSize(free));
            if free < DISK_FREE_FAIL {
                Check::fail(NAME, text, "free some space: without it jobs cannot be charged, and requests are refused")
            } else if free < DISK_FREE_WARN {
                Check::warn(NAME, text, "a larger model will not fit")
            } else {
                Check::ok(NAME, text)
            }
        }
        Err(error) => Check::warn(NAME, format!("cannot be read: {error}"), "look with `df -h`"),
    }
}

pub(super) fn threads(configured: u32) -> Check {
    const NAME: &str = "threads";
    let available = engine::available_threads();
    if configured > available {
        return Check::warn(
            NAME,
            format!("engine.threads is {configured}, and the machine or its cgroup gives {available}"),
            "set engine.threads = 0: more threads than CPUs make every step slower",
        );
    }
    Check::ok(NAME, format!("{} of {available} available", if configured == 0 { available } else { configured }))
}

pub(super) fn port(name: &'static str, address: SocketAddr, running: bool) -> Check {
    if running {
        return Check::ok(name, format!("{address}: a node runs on this data directory"));
    }
    match TcpListener::bind(address) {
        Ok(_) => Check::ok(name, format!("{address} is free")),
        Err(error) => Check::fail(
            name,
            format!("{address}: {error}"),
            "stop what listens there (`ss -ltnp`), or configure another port",
        ),
    }
}

/// Presence, form, digest (where one is configured) and size of the model; nothing is downloaded.
pub(super) fn model(engine: &Engine, dir: &DataDir) -> Vec<Check> {
    const NAME: &str = "model";
    let setting = match model::setting(engine, dir) {
        Ok(setting) => setting,
        Err(error) => return vec![Check::fail(NAME, format!("{error:#}"), "see there")],
    };
    if setting.starts_with("hf:") {
        return vec![Check::ok(NAME, format!("{setting}: is downloaded at the start, if it is not here yet"))];
    }
    let files = match models::resolve(&setting, dir.path(), &()) {
        Ok(files) => files,
        Err(error) => {
            return vec![Check::fail(NAME, error.to_string(), "put the whole file there, or correct engine.model")];
        }
    };
    let bytes: u64 = files.shards.iter().filter_map(|shard| fs::metadata(shard).ok()).map(|found| found.len()).sum();
    let mut checks = vec![Check::ok(NAME, format!("{setting} ({})", ByteSize(bytes)))];
    if let Some(expected) = &engine.model_sha256 {
        let verdict = models::digest(&files, dir.path(), &Steps::default())
            .and_then(|digest| models::verify_digest(&digest, expected.as_str()));
        checks.push(match verdict {
            Ok(()) => Check::ok("model digest", "as configured"),
            Err(error) => {
                Check::fail("model digest", error.to_string(), "get the file again, or correct engine.model_sha256")
            }
        });
    }
    if let Some(available) = available_memory() {
        let found = format!("{} available, weights of {}", ByteSize(available), ByteSize(bytes));
        checks.push(if available < bytes + bytes / 4 {
            Check::fail("memory", found, "take a smaller model or a smaller quantisation")
        } else {
            Check::ok("memory", found)
        });
    }
    checks
}

fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_taken_port_fails_and_a_free_one_does_not() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = taken.local_addr().expect("has one");
        assert_eq!(port("p", address, false).verdict, Verdict::Fail);
        assert_eq!(port("p", address, true).verdict, Verdict::Ok);
        drop(taken);
        assert_eq!(port("p", address, false).verdict, Verdict::Ok);
    }

    #[test]
    fn an_exposed_secret_fails() {
        let folder = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(folder.path()).expect("opens");
        let config = Config::default();
        assert_eq!(secret(&config, &dir).verdict, Verdict::Ok, "not generated yet");
        auth::JwtSecret::load_or_generate(&dir.jwt_secret()).expect("generates");
        assert_eq!(secret(&config, &dir).verdict, Verdict::Ok);
        fs::set_permissions(dir.jwt_secret(), fs::Permissions::from_mode(0o644)).expect("ours");
        assert_eq!(secret(&config, &dir).verdict, Verdict::Fail);
    }

    #[test]
    fn a_directory_that_others_can_read_is_warned_of() {
        let folder = tempfile::tempdir().expect("a directory");
        let check = |mode, verdict| {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("ours");
            assert_eq!(private(folder.path()).verdict, verdict, "{mode:o}");
        };
        check(0o755, Verdict::Warn);
        check(0o710, Verdict::Warn);
        check(0o700, Verdict::Ok);
    }

    #[test]
    fn a_missing_or_broken_model_fails() {
        let folder = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(folder.path()).expect("opens");
        let engine = Engine::default();
        assert_eq!(model(&engine, &dir)[0].verdict, Verdict::Fail, "none");
        fs::write(dir.models().join("m.gguf"), "no model").expect("writes");
        assert_eq!(model(&engine, &dir)[0].verdict, Verdict::Fail, "broken");
    }
}
