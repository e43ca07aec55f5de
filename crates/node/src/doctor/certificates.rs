//! The certificates of both listeners.

use std::{fs, os::unix::fs::PermissionsExt as _, time::SystemTime, time::UNIX_EPOCH};

use server::tls::TlsFiles;

use super::Check;
use crate::{config::Config, serve::certificates};

/// Days before its end from which a certificate is warned of.
const WARN_DAYS: i64 = 21;

pub(super) fn check(config: &Config) -> Vec<Check> {
    let (public, admin) = certificates::files(config);
    let mut checks = match public {
        Some(files) => listener("certificate", "server", &files),
        None if config.server.listen.ip().is_loopback() => Vec::new(),
        None => vec![Check::ok("certificate", "none: a proxy terminates TLS (server.behind_proxy)")],
    };
    checks.extend(admin.iter().flat_map(|files| listener("admin certificate", "admin", files)));
    checks
}

fn listener(name: &'static str, section: &str, files: &TlsFiles) -> Vec<Check> {
    let certificate = match files.check() {
        Ok(certificate) => certificate,
        Err(error) => return vec![Check::fail(name, error.to_string(), format!("correct {section}.tls_*"))],
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let (names, days) = (certificate.names.join(", "), certificate.days_left(now));
    let replace =
        format!("get a new one and replace {}; the running node takes it by itself", files.certificate.display());
    let mut checks = vec![if certificate.has_ended(now) {
        Check::fail(name, format!("for {names}; it ended {} days ago", -days), replace)
    } else if certificate.is_early(now) {
        Check::fail(name, format!("for {names}; it is not valid yet"), "check the clock, or wait")
    } else if names.is_empty() {
        Check::fail(name, "it names no host: clients refuse it", "get one with a subjectAltName")
    } else if days < WARN_DAYS {
        Check::warn(name, format!("for {names}; {days} days left"), replace)
    } else {
        Check::ok(name, format!("for {names}; {days} days left"))
    }];
    if let Ok(found) = fs::metadata(&files.key)
        && found.permissions().mode() & 0o077 != 0
    {
        checks.push(Check::warn(
            name,
            format!("others can read its key {}", files.key.display()),
            format!("chmod 600 {}; if others had access, replace key and certificate", files.key.display()),
        ));
    }
    checks
}
