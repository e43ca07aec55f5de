use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// What an operator wants to know of a certificate (RFC 5280).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The host names and addresses that it is for.
    pub names: Vec<String>,
    /// From when all of its chain is valid, Unix seconds.
    pub not_before: i64,
    /// When the first of its chain ends, Unix seconds.
    pub not_after: i64,
}

impl Certificate {
    /// Of a chain whose first is the server's own.
    pub(super) fn of(chain: &[CertificateDer<'_>]) -> Result<Self, String> {
        let mut own: Option<Self> = None;
        for der in chain {
            let (_, parsed) = parse_x509_certificate(der).map_err(|error| format!("not X.509: {error}"))?;
            let (from, to) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
            if let Some(own) = &mut own {
                own.not_before = own.not_before.max(from);
                own.not_after = own.not_after.min(to);
                continue;
            }
            let names = parsed.subject_alternative_name().ok().flatten();
            let names = names.map(|names| names.value.general_names.iter().filter_map(name).collect());
            own = Some(Self { names: names.unwrap_or_default(), not_before: from, not_after: to });
        }
        own.ok_or_else(|| "it is empty".to_owned())
    }

    /// Whether it is not valid any more at `now` (Unix seconds).
    #[must_use]
    pub fn has_ended(&self, now: i64) -> bool {
        self.not_after <= now
    }

    /// Whether it is not valid yet at `now` (Unix seconds).
    #[must_use]
    pub fn is_early(&self, now: i64) -> bool {
        now < self.not_before
    }

    /// Whole days from `now` (Unix seconds) to its end; negative once that has passed.
    #[must_use]
    pub fn days_left(&self, now: i64) -> i64 {
        (self.not_after - now).div_euclid(86_400)
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// Unix seconds; 0 for a clock before 1970.
pub(super) fn now() -> i64 {
    let secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(secs).unwrap_or(i64::MAX)
}
