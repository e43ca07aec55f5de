//! What a token says: the shape of RFC 9068 with the node's own claims.

use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use protocol::{JobId, SessionId, Subject};
use serde::{Deserialize, Serialize};

/// A right that a token carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// See models, stored responses, one's own usage.
    Read,
    /// Change one's own stored data.
    Write,
    /// Generate.
    Execute,
    /// Administer the node.
    Admin,
}

impl Permission {
    /// The right of that name, whatever the case of its letters.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "read" => Some(Self::Read),
            "write" => Some(Self::Write),
            "execute" => Some(Self::Execute),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }
}

/// A set of rights.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Permissions(BTreeSet<Permission>);

impl Permissions {
    /// These rights.
    pub fn of(permissions: impl IntoIterator<Item = Permission>) -> Self {
        Self(permissions.into_iter().collect())
    }

    /// Those that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Whether the right is in the set. No right implies another.
    #[must_use]
    pub fn allow(&self, permission: Permission) -> bool {
        self.0.contains(&permission)
    }
}

impl FromStr for Permissions {
    type Err = String;

    /// Reads `execute,read`.
    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(|name| {
                let unknown = || format!("`{}` is not a permission; they are read, write, execute, admin", name.trim());
                Permission::named(name.trim()).ok_or_else(unknown)
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(|right| format!("{right:?}").to_ascii_lowercase()).collect();
        f.write_str(&names.join(","))
    }
}

/// What a token is issued for.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Who.
    pub subject: Subject,
    /// Charged to which job.
    pub job: Option<JobId>,
    /// For which session, if for one.
    pub session: Option<SessionId>,
    /// With which rights.
    pub permissions: Permissions,
    /// For how long; `None` takes the configured `auth.token_expiry`.
    pub lifetime: Option<Duration>,
    /// RFC 7638 thumbprint of the only key that may use the token.
    pub bound_key: Option<String>,
}

/// The claims of a verified token (RFC 9068 section 2.2). Times are Unix seconds (RFC 7519 `NumericDate`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The issuer: the node's name, or the address of an issuer that it trusts.
    pub iss: String,
    /// The audience: the node.
    pub aud: String,
    /// Who. Subjects of other issuers have their address in front (`https://issuer|subject`).
    pub sub: Subject,
    /// Issued at.
    pub iat: u64,
    /// Not before.
    pub nbf: u64,
    /// Expires at.
    pub exp: u64,
    /// The token's own id.
    pub jti: String,
    /// The id of the token that this one was refreshed from, the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The session that it was issued for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// The job that is charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// The rights.
    pub permissions: Permissions,
    /// The key that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
}

/// Who may use a token: the holder of a key (RFC 7800). A token that is bound by other means is refused, because the
/// node could not check them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// RFC 7638 thumbprint (RFC 9449 section 6.1).
    pub jkt: String,
}
