//! Reading `Signature-Input` and `Signature`, strictly and within limits.

use ::http::HeaderMap;
use sfv::{BareItem, Dictionary, InnerList, ListEntry, Parameters, Parser};

use super::{ALGORITHM, HttpSignature, HttpSignatureError, KEY_ID_LENGTH_MAX, NONCE_LENGTHS, TAG};
use crate::Signature;

/// Longest value of either header, all lines together, in bytes.
const FIELD_BYTES_MAX: usize = 4096;
/// Most signatures on one request.
const SIGNATURES_MAX: usize = 8;
/// Most components that one covers.
const COMPONENTS_MAX: usize = 32;

const fn malformed(why: &'static str) -> HttpSignatureError {
    HttpSignatureError::Malformed(why)
}

pub(super) fn read(headers: &HeaderMap) -> Result<Option<HttpSignature>, HttpSignatureError> {
    let inputs = dictionary(headers, "signature-input")?;
    let mut ours = inputs.iter().filter_map(|(label, entry)| match entry {
        ListEntry::InnerList(list) if text(&list.params, "tag") == Some(TAG) => Some((label, list)),
        _ => None,
    });
    let Some((label, covered)) = ours.next() else { return Ok(None) };
    if ours.next().is_some() {
        return Err(malformed("more than one signature has the tag llm-node"));
    }
    let signatures = dictionary(headers, "signature")?;
    let Some(ListEntry::Item(item)) = signatures.get(label) else {
        return Err(malformed("`Signature` has no value for the label in `Signature-Input`"));
    };
    let bytes = item.bare_item.as_byte_sequence().ok_or(malformed("the signature is not a byte sequence (`:…:`)"))?;
    let signature = Signature::from_bytes(bytes).map_err(|_| malformed("the signature has not 64 bytes"))?;
    from_parts(covered, signature).map(Some)
}

fn from_parts(covered: &InnerList, signature: Signature) -> Result<HttpSignature, HttpSignatureError> {
    let parameters = &covered.params;
    if text(parameters, "alg") != Some(ALGORITHM) {
        return Err(malformed("the signature's `alg` must be \"ed25519\""));
    }
    let nonce = text(parameters, "nonce").filter(|nonce| NONCE_LENGTHS.contains(&nonce.len()));
    let key_id = text(parameters, "keyid").filter(|key_id| (1..=KEY_ID_LENGTH_MAX).contains(&key_id.len()));
    let expires = match parameters.get("expires") {
        Some(value) => Some(seconds(value).ok_or(malformed("`expires` must be whole seconds"))?),
        None => None,
    };
    Ok(HttpSignature {
        names: names(covered)?,
        covered: covered.clone(),
        key_id: key_id.ok_or(malformed("the signature needs a `keyid` of 1 to 128 characters"))?.to_owned(),
        nonce: nonce.ok_or(malformed("the signature needs a `nonce` of 16 to 128 characters"))?.to_owned(),
        created: parameters
            .get("created")
            .and_then(seconds)
            .ok_or(malformed("the signature needs `created` in whole seconds"))?,
        expires,
        signature,
    })
}

/// The names of what is covered. Each once, without parameters: those change what a name means.
fn names(covered: &InnerList) -> Result<Vec<String>, HttpSignatureError> {
    if covered.items.len() > COMPONENTS_MAX {
        return Err(malformed("the signature covers too many components"));
    }
    let mut names: Vec<String> = Vec::with_capacity(covered.items.len());
    for item in &covered.items {
        let name = item.bare_item.as_string().ok_or(malformed("a component's name is not a string"))?.as_str();
        if !item.params.is_empty() {
            return Err(malformed("components with parameters are not supported"));
        }
        if names.iter().any(|earlier| earlier == name) {
            return Err(malformed("a component is covered twice"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn dictionary(headers: &HeaderMap, name: &str) -> Result<Dictionary, HttpSignatureError> {
    let value = combined(headers, name).map_err(|()| malformed("a signature header is not ASCII"))?.unwrap_or_default();
    if value.len() > FIELD_BYTES_MAX {
        return Err(malformed("a signature header is too long"));
    }
    let dictionary: Dictionary =
        Parser::new(&value).parse().map_err(|_| malformed("a signature header is not a dictionary (RFC 9651)"))?;
    if dictionary.len() > SIGNATURES_MAX {
        return Err(malformed("the request has too many signatures"));
    }
    Ok(dictionary)
}

/// The lines of a header in one, each trimmed, with `, ` between them (RFC 9421 section 2.1). `Err` when not ASCII.
pub(super) fn combined(headers: &HeaderMap, name: &str) -> Result<Option<String>, ()> {
    let lines = headers.get_all(name).iter().map(|value| value.to_str().map(|text| text.trim_matches([' ', '\t'])));
    let lines = lines.collect::<Result<Vec<_>, _>>().map_err(|_| ())?;
    Ok((!lines.is_empty()).then(|| lines.join(", ")))
}

fn text<'a>(parameters: &'a Parameters, name: &str) -> Option<&'a str> {
    parameters.get(name)?.as_string().map(|text| text.as_str())
}

fn seconds(value: &BareItem) -> Option<u64> {
    u64::try_from(i64::from(value.as_integer()?)).ok()
}
