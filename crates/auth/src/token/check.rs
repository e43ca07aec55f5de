//! Checks that are the same for every issuer's tokens.

use crate::TokenError;

/// Longest life of a token, in seconds: as `auth.token_expiry` and `token issue --ttl` allow. What claims to be valid
/// for longer is a mistake or an attack.
pub const LIFETIME_SECS_MAX: u64 = 366 * 24 * 3600;

/// Whether the header names Ed25519: its own name (RFC 9864), or the older one of the family (RFC 8037).
pub(crate) fn is_ed25519(alg: &str) -> bool {
    matches!(alg, "Ed25519" | "EdDSA")
}

/// Whether a token with these dates is valid at `now`. All are Unix seconds.
pub(crate) fn dates(iat: u64, nbf: u64, exp: u64, now: u64, leeway_secs: u64) -> Result<(), TokenError> {
    if exp.saturating_add(leeway_secs) <= now {
        return Err(TokenError::Expired);
    }
    // A token from the future would outlive the revocation of all that its subject has.
    if iat.max(nbf) > now.saturating_add(leeway_secs) {
        return Err(TokenError::NotYet);
    }
    if exp.saturating_sub(iat) > LIFETIME_SECS_MAX {
        return Err(TokenError::Claim("exp"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_tolerated_by_the_leeway_and_no_more() {
        let check = |iat, nbf, exp, expected| assert_eq!(dates(iat, nbf, exp, 1000, 30), expected, "{iat} {nbf} {exp}");
        check(0, 0, 970, Err(TokenError::Expired));
        check(0, 0, 0, Err(TokenError::Expired));
        check(0, 0, 971, Ok(()));
        check(0, 1031, 2000, Err(TokenError::NotYet));
        check(1031, 0, 2000, Err(TokenError::NotYet));
        check(u64::MAX, 0, u64::MAX, Err(TokenError::NotYet));
        check(1030, 1030, 2000, Ok(()));
        check(1000, 1000, u64::MAX, Err(TokenError::Claim("exp")));
        check(1000, 1000, 1001 + LIFETIME_SECS_MAX, Err(TokenError::Claim("exp")));
        check(1000, 1000, 1000 + LIFETIME_SECS_MAX, Ok(()));
    }
}
