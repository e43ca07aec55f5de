//! The token of an open socket over time: a warning before it ends, a grace period after, and revocation at once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::{ApiError, ErrorCode};
use tokio::time::sleep;

use crate::{App, Settings, pipeline::Authenticated};

/// Longest sleep. Settings change and clocks are set while a socket waits.
const SLEEP_MAX: Duration = Duration::from_secs(15);

/// What happens to the token of a socket.
#[derive(Debug, PartialEq)]
pub(crate) enum TokenEvent {
    /// It ends soon, or has just ended: the client can still refresh it.
    Expiring {
        /// When it ends, Unix seconds.
        expires_at: u64,
        /// When the socket is closed without a fresh one, Unix seconds.
        closes_at: u64,
    },
    /// It is over: nothing goes on with it. `TOKEN_EXPIRED` or `TOKEN_REVOKED`.
    Over(ApiError),
}

/// Follows whatever token a socket has.
#[derive(Debug, Default)]
pub(crate) struct TokenWatch {
    /// The expiry that the client was warned of.
    warned_of: Option<u64>,
}

impl TokenWatch {
    /// What happens next to the token of `who`; never returns where there is none. Cancel-safe.
    pub(crate) async fn next(&mut self, app: &App, who: Option<&Authenticated>) -> TokenEvent {
        let Some(who) = who.filter(|who| !who.is_anonymous()) else { return std::future::pending().await };
        loop {
            let wait = match Deadlines::of(who, &app.settings()).map(|deadlines| deadlines.at(now(), self.warned_of)) {
                None => SLEEP_MAX,
                Some(Due::In(wait)) => wait.min(SLEEP_MAX),
                Some(Due::Warning { expires_at, closes_at }) => {
                    self.warned_of = Some(expires_at);
                    return TokenEvent::Expiring { expires_at, closes_at };
                }
                Some(Due::End) => return TokenEvent::Over(ended()),
            };
            tokio::select! {
                error = who.until_revoked() => return TokenEvent::Over(error),
                () = sleep(wait) => {}
            }
        }
    }
}

fn ended() -> ApiError {
    ApiError::new(ErrorCode::TokenExpired, "The token has expired. Connect again with a fresh one.")
}

/// Time since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// When what happens to a token, as the time since 1970.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    expires_at: u64,
    warn: Duration,
    close: Duration,
}

#[derive(Debug, PartialEq)]
enum Due {
    In(Duration),
    Warning { expires_at: u64, closes_at: u64 },
    End,
}

impl Deadlines {
    fn of(who: &Authenticated, settings: &Settings) -> Option<Self> {
        Some(Self::new(who.expires_at()?, who.valid_until()?, settings))
    }

    /// The grace begins where the token is refused: at its expiry and the clock difference that is tolerated.
    fn new(expires_at: u64, valid_until: u64, settings: &Settings) -> Self {
        Self {
            expires_at,
            warn: Duration::from_secs(expires_at).saturating_sub(settings.token_expiry_warning),
            close: Duration::from_secs(valid_until).saturating_add(settings.token_expiry_grace),
        }
    }

    fn at(self, now: Duration, warned_of: Option<u64>) -> Due {
        let warned = warned_of == Some(self.expires_at);
        let wait = if warned { self.close } else { self.warn }.saturating_sub(now);
        match (wait.is_zero(), warned) {
            (false, _) => Due::In(wait),
            (true, true) => Due::End,
            (true, false) => Due::Warning { expires_at: self.expires_at, closes_at: self.close.as_secs() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_warned_of_once_and_then_has_its_grace() {
        let settings = Settings {
            token_expiry_warning: Duration::from_secs(60),
            token_expiry_grace: Duration::from_secs(10),
            ..Settings::default()
        };
        let check = |now: u64, warned_of: Option<u64>, expected: Due| {
            assert_eq!(
                Deadlines::new(1000, 1030, &settings).at(Duration::from_secs(now), warned_of),
                expected,
                "{now}"
            );
        };
        let warning = || Due::Warning { expires_at: 1000, closes_at: 1040 };
        check(2000, None, warning());
        check(2000, Some(1000), Due::End);
        check(1040, Some(1000), Due::End);
        check(1039, Some(1000), Due::In(Duration::from_secs(1)));
        check(940, Some(1000), Due::In(Duration::from_secs(100)));
        check(940, None, warning());
        check(940, Some(500), warning());
        check(900, None, Due::In(Duration::from_secs(40)));
    }

    #[test]
    fn absurd_expiries_do_not_overflow() {
        let settings = Settings::default();
        for expires_at in [0, u64::MAX] {
            let _ = Deadlines::new(expires_at, expires_at, &settings).at(Duration::from_secs(1000), None);
        }
    }
}
