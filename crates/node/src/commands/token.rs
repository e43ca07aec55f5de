//! `llm-node token`.

use std::{
    io::Read as _,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use auth::{Claims, ClientKeys, Grant, Revocations, Secrets, TOKEN_BYTES_MAX, TokenError};
use protocol::{JobId, Subject};
use serde_json::json;
use signing::PublicKey;
use store::Store;

use super::{load, runtime, with_jobs};
use crate::{
    cli::{Common, IssueToken, RevokeToken, Token},
    config::Config,
    data_dir::DataDir,
    output, tokens,
};

/// Longest `jti` that can be revoked by hand, in bytes.
const JTI_BYTES_MAX: usize = 1024;

pub(super) fn run(common: &Common, command: Token) -> Result<ExitCode> {
    let (config, dir) = load(common)?;
    match command {
        Token::Issue(arguments) => issue(&config, &dir, arguments)?,
        Token::Inspect { token, json } => inspect(&config, &dir, token, json)?,
        Token::Revoke(arguments) => revoke(&config, &dir, arguments)?,
        Token::RotateSecret { overlap, json } => rotate_secret(&config, &dir, overlap, json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn issue(config: &Config, dir: &DataDir, arguments: IssueToken) -> Result<()> {
    let IssueToken { subject, job, permissions, ttl, bind_key, alg } = arguments;
    if auth::is_foreign(&subject) {
        bail!("{subject} is a subject of another issuer (auth.issuers), which alone can say that somebody is it");
    }
    if let Some(key) = &bind_key {
        enrol(dir, &subject, key)?;
    }
    let tokens = tokens::service(config, dir)?;
    let grant = Grant {
        subject: subject.clone(),
        job: Some(job.clone()),
        session: None,
        permissions,
        lifetime: ttl.map(Duration::from_secs),
        bound_key: bind_key.map(|key| key.thumbprint()),
    };
    let issued = match alg {
        Some(algorithm) => tokens.issue_signed_by(&grant, algorithm)?,
        None => tokens.issue(&grant)?,
    };
    hint(dir, &subject, &job);
    Ok(output::print(&issued.token)?)
}

/// The token names its key by a hash only: the node must know the key itself.
fn enrol(dir: &DataDir, subject: &Subject, key: &PublicKey) -> Result<()> {
    let enrolled = runtime()?.block_on(async {
        ClientKeys::new(Store::open(&dir.database())?)
            .enrol(subject, key, None, false)
            .await
            .map_err(anyhow::Error::from)
    });
    enrolled.context("the key cannot be enrolled for the subject").map(drop)
}

fn inspect(config: &Config, dir: &DataDir, token: Option<String>, json: bool) -> Result<()> {
    let token = token.map_or_else(read_token, Ok)?;
    let claims = verify(config, dir, &token)?.context("this node does not accept the token")?;
    if json {
        return Ok(output::print_json(&claims)?);
    }
    let job = claims.job_id.as_ref().map_or("none", |job| job.as_str());
    let key = claims.cnf.as_ref().map_or("none", |cnf| cnf.jkt.as_str());
    Ok(output::print(&format!(
        "subject      {}\njob          {job}\npermissions  {}\nexpires      in {} s\nissued       {} s ago by {}\n\
         bound key    {key}\nid           {}",
        claims.sub,
        claims.permissions,
        claims.exp.saturating_sub(jobs::now()),
        jobs::now().saturating_sub(claims.iat),
        claims.iss,
        claims.jti,
    ))?)
}

/// What the node would say to a token.
fn verify(config: &Config, dir: &DataDir, token: &str) -> Result<Result<Claims, TokenError>> {
    runtime()?.block_on(async {
        let tokens = tokens::deciding(config, dir, Store::open(&dir.database())?).await?;
        Ok(tokens.verify(token.trim()).await)
    })
}

fn revoke(config: &Config, dir: &DataDir, arguments: RevokeToken) -> Result<()> {
    let RevokeToken { what, issued_until, json } = arguments;
    if let Some(subject) = what.subject {
        return revoke_subject(dir, &subject, issued_until, json);
    }
    let (jti, expires_at) = match what.jti {
        Some(jti) if jti.is_empty() || jti.len() > JTI_BYTES_MAX => bail!("an id has 1 to {JTI_BYTES_MAX} bytes"),
        Some(jti) => (jti, None),
        None => {
            let token = what.token.map_or_else(read_token, Ok)?;
            match verify(config, dir, &token)? {
                Ok(claims) => (claims.jti, Some(claims.exp)),
                Err(TokenError::Expired) => {
                    return Ok(output::print("The token has expired: there is nothing to revoke.")?);
                }
                Err(TokenError::Revoked) => return Ok(output::print("The token was revoked before.")?),
                Err(error) => return Err(error).context("this node does not accept the token anyway"),
            }
        }
    };
    with_revocations(dir, async |list| Ok(list.revoke_token(&jti, expires_at).await?))?;
    if json {
        return Ok(output::print_json(&json!({ "revoked": "token", "jti": jti, "expires_at": expires_at }))?);
    }
    Ok(output::print(&format!("The token {jti} is revoked."))?)
}

fn revoke_subject(dir: &DataDir, subject: &Subject, issued_until: Option<u64>, json: bool) -> Result<()> {
    let now = jobs::now();
    let until = issued_until.unwrap_or(now);
    if until > now {
        bail!("{until} is in the future: tokens that are not issued yet cannot be revoked");
    }
    with_revocations(dir, async |list| Ok(list.revoke_subject(subject, until).await?))?;
    // A token that is issued in this same second would be among the revoked ones; what comes after this command is not.
    while jobs::now() <= until {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        std::thread::sleep(Duration::from_secs(1).saturating_sub(Duration::from_nanos(since.subsec_nanos().into())));
    }
    if json {
        return Ok(output::print_json(&json!({ "revoked": "subject", "subject": subject, "issued_until": until }))?);
    }
    Ok(output::print(&format!("All tokens of {subject} that were issued until {until} are revoked."))?)
}

fn with_revocations<T>(dir: &DataDir, work: impl AsyncFnOnce(Revocations) -> Result<T>) -> Result<T> {
    runtime()?.block_on(async { work(Revocations::open(Store::open(&dir.database())?).await?).await })
}

fn rotate_secret(config: &Config, dir: &DataDir, overlap: Option<u64>, json: bool) -> Result<()> {
    if config.auth.jwt_secret.is_some() {
        bail!(
            "the secret is configured: put its value into auth.jwt_secret_previous and a new one \
             (`openssl rand -hex 32`) into auth.jwt_secret; a running node takes both on reload"
        );
    }
    let overlap = overlap.map_or(config.auth.token_expiry, Duration::from_secs);
    let rotated = Secrets::rotate(dir.jwt_secret(), overlap, jobs::now())?;
    if json {
        return Ok(output::print_json(&json!({ "kid": rotated.kid, "old_until": rotated.old_until }))?);
    }
    Ok(output::print(&match rotated.old_until {
        Some(until) => format!(
            "New tokens are signed by the new secret ({}). Tokens of the old one are valid for {} s more, until {until}.",
            rotated.kid,
            until.saturating_sub(jobs::now()),
        ),
        None => format!("New tokens are signed by the new secret ({}). Tokens of the old one have ended.", rotated.kid),
    })?)
}

/// Says why the token will not be of use yet. It is issued all the same: the job may come later.
fn hint(dir: &DataDir, subject: &Subject, job: &JobId) {
    match with_jobs(dir, async |jobs| Ok(jobs.check(job, subject, None).await)) {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => output::complain(&format!("this token cannot be used now: job {job}: {error}")),
        Err(error) => output::complain(&format!("whether job {job} can be used is not known: {error:#}")),
    }
}

fn read_token() -> Result<String> {
    let mut token = String::new();
    std::io::stdin()
        .take(TOKEN_BYTES_MAX as u64 + 2)
        .read_to_string(&mut token)
        .context("the token cannot be read from standard input")?;
    Ok(token)
}
