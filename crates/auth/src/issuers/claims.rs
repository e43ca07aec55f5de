//! What a token of another issuer says, translated to what it may mean here.

use protocol::{JobId, Subject};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use sha2::{Digest as _, Sha256};

use super::{IssuersConfig, SEPARATOR};
use crate::{Claims, Confirmation, Permission, Permissions, TokenError, token::dates};

/// Longest `jti` that is a name by itself, in bytes.
const JTI_BYTES_MAX: usize = 128;

/// Verified but not yet checked claims, no member twice.
pub(super) struct ForeignClaims(Value);

impl ForeignClaims {
    pub(super) fn read(payload: &[u8]) -> Result<Self, TokenError> {
        let Strict(claims) =
            serde_json::from_slice(payload).map_err(|_| TokenError::Claim("not JSON, or a member twice"))?;
        Ok(Self(claims))
    }

    pub(super) fn checked(
        &self,
        issuer: &str,
        signed: &[u8],
        config: &IssuersConfig,
        now: u64,
        leeway_secs: u64,
    ) -> Result<Claims, TokenError> {
        if self.0["iss"] != issuer {
            return Err(TokenError::Claim("iss"));
        }
        let for_us = match &self.0["aud"] {
            Value::String(audience) => *audience == config.audience,
            Value::Array(audiences) => audiences.iter().any(|audience| *audience == config.audience.as_str()),
            _ => false,
        };
        if !for_us {
            return Err(TokenError::Claim("aud"));
        }
        let (iat, exp) = (self.date("iat")?, self.date("exp")?);
        // RFC 9068 does not ask for it.
        let nbf = if self.0["nbf"].is_null() { iat } else { self.date("nbf")? };
        dates(iat, nbf, exp, now, leeway_secs)?;

        let subject = self.find(&config.subject_claim).and_then(Value::as_str).ok_or(TokenError::Claim("sub"))?;
        // No address has this sign in it, so no two issuers' subjects can be one.
        let subject = Subject::new(format!("{issuer}{SEPARATOR}{subject}")).map_err(|_| TokenError::Claim("sub"))?;
        let job = match self.find(&config.job_claim) {
            None | Some(Value::Null) => None,
            Some(Value::String(job)) => Some(JobId::new(job.as_str()).map_err(|_| TokenError::Claim("job"))?),
            Some(Value::Number(job)) => Some(JobId::new(job.to_string()).map_err(|_| TokenError::Claim("job"))?),
            Some(_) => return Err(TokenError::Claim("job")),
        };
        let cnf: Option<Confirmation> = Option::deserialize(&self.0["cnf"]).map_err(|_| TokenError::Claim("cnf"))?;
        Ok(Claims {
            iss: issuer.to_owned(),
            aud: config.audience.clone(),
            sub: subject,
            iat,
            nbf,
            exp,
            jti: self.id(issuer, signed),
            origin: None,
            session_id: None,
            job_id: job,
            permissions: self.permissions(config),
            cnf,
        })
    }

    /// A claim by its name, or by a JSON pointer (RFC 6901) to where the issuer has it.
    fn find(&self, claim: &str) -> Option<&Value> {
        if claim.starts_with('/') { self.0.pointer(claim) } else { self.0.get(claim) }
    }

    fn date(&self, claim: &'static str) -> Result<u64, TokenError> {
        self.0[claim].as_u64().ok_or(TokenError::Claim(claim))
    }

    /// The rights of those that are allowed that the claim names, as a list or separated by spaces (RFC 8693 `scope`).
    fn permissions(&self, config: &IssuersConfig) -> Permissions {
        let Some(claim) = &config.permissions_claim else { return config.permissions.clone() };
        let named = match self.find(claim) {
            Some(Value::String(text)) => text.split(' ').filter_map(Permission::named).collect(),
            Some(Value::Array(list)) => {
                list.iter().filter_map(Value::as_str).filter_map(Permission::named).collect::<Vec<_>>()
            }
            _ => Vec::new(),
        };
        Permissions::of(named).intersection(&config.permissions)
    }

    /// A name by which the token can be revoked: the issuer's `jti`, if it has a sane one, else a hash of what was
    /// signed (not of the signature, of which ECDSA has two for every token).
    fn id(&self, issuer: &str, signed: &[u8]) -> String {
        match self.0["jti"].as_str() {
            Some(jti)
                if !jti.is_empty() && jti.len() <= JTI_BYTES_MAX && jti.bytes().all(|byte| byte.is_ascii_graphic()) =>
            {
                format!("{issuer}{SEPARATOR}{jti}")
            }
            _ => format!("sha256:{}", hex::encode(Sha256::digest(signed))),
        }
    }
}

/// A JSON value in which no object has a member twice: which of the two counts is a matter of the reader.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StrictVisitor;

        impl<'de> Visitor<'de> for StrictVisitor {
            type Value = Value;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(Strict(item)) = sequence.next_element()? {
                    items.push(item);
                }
                Ok(Value::Array(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut members = Map::new();
                while let Some((name, Strict(value))) = map.next_entry()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member twice"));
                    }
                }
                Ok(Value::Object(members))
            }
        }

        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}
