//! The signature base (RFC 9421 section 2.5): the bytes that are signed.

use ::http::{HeaderName, Uri};
use sfv::{FieldType as _, InnerList, List, ListEntry};

use super::{HttpSignatureError, Message, fields::combined};

/// Builds it: a line for each covered component, then the parameters.
pub(super) fn build(message: &Message<'_>, covered: &InnerList) -> Result<String, HttpSignatureError> {
    let mut base = String::with_capacity(512);
    for item in &covered.items {
        let name = item.bare_item.as_string().map_or("", |name| name.as_str());
        let value = component(message, name).ok_or_else(|| HttpSignatureError::NoSuchComponent(name.to_owned()))?;
        base.push('"');
        base.push_str(name);
        base.push_str("\": ");
        base.push_str(&value);
        base.push('\n');
    }
    let parameters = List::from([ListEntry::InnerList(covered.clone())]).serialize().unwrap_or_default();
    base.push_str("\"@signature-params\": ");
    base.push_str(&parameters);
    Ok(base)
}

/// The value of a component; `None` when the request has not got it.
fn component(message: &Message<'_>, name: &str) -> Option<String> {
    let target = message.target;
    match name {
        "@method" => Some(message.method.as_str().to_owned()),
        "@scheme" => Some(target.scheme_str()?.to_ascii_lowercase()),
        "@authority" => authority(target),
        "@path" => Some(path(target).to_owned()),
        "@query" => Some(format!("?{}", target.query().unwrap_or_default())),
        "@target-uri" => target_uri(target),
        _ => {
            let header = HeaderName::from_bytes(name.as_bytes()).ok()?;
            // `HeaderName` is lowercase; a name that is not would be a second spelling of one component.
            (header.as_str() == name).then(|| combined(message.headers, name).ok().flatten())?
        }
    }
}

/// Scheme and host in lower case, no default port, `/` for an empty path, no fragment (RFC 9110 section 4.2.3).
pub(crate) fn target_uri(target: &Uri) -> Option<String> {
    let query = target.query().map(|query| format!("?{query}")).unwrap_or_default();
    Some(format!("{}{query}", resource(target)?))
}

/// [`target_uri`] without its query.
pub(crate) fn resource(target: &Uri) -> Option<String> {
    Some(format!("{}://{}{}", target.scheme_str()?.to_ascii_lowercase(), authority(target)?, path(target)))
}

fn authority(target: &Uri) -> Option<String> {
    let host = target.host()?.to_ascii_lowercase();
    let default = match target.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    };
    match target.port_u16() {
        Some(port) if Some(port) != default => Some(format!("{host}:{port}")),
        _ => Some(host),
    }
}

fn path(target: &Uri) -> &str {
    if target.path().is_empty() { "/" } else { target.path() }
}
