//! Checks a client's JSON schema before llama.cpp's converter sees it.
//!
//! The converter is recursive C++ without limits of its own. References that lead to each other make it overflow the
//! stack, which no exception handler catches, and a `type` that names `object` twice at each level makes it visit the
//! lowest level 2ⁿ times. Either would let one request stop the node. So what the converter is given is bounded here in
//! each dimension that it recurses or multiplies in.
//!
//! `pattern` is refused: an ambiguous one (`(a?){200}a{200}`) keeps llama.cpp's grammar busy for hours at a single token,
//! on the thread that serves everyone, and one that the converter does not know it prints to stderr and ignores.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// Deepest nesting of JSON in a schema. OpenAI allows ten levels of objects, which are twenty of JSON.
const DEPTH_MAX: usize = 64;
/// Most places in a schema, each counted as often as the converter visits it (OpenAI allows 5,000 properties).
const VISITS_MAX: u64 = 20_000;
/// Most choices in all: enum values, properties, alternatives; a number with bounds counts as [`BOUNDED_NUMBER_CHOICES`].
/// The grammar tries the vocabulary against each that is open at a token: a thousand enum values cost the step thread,
/// which serves everyone, 0.4 s a token, and converting 2,000 properties takes 28 s (SmolLM2, two busy cores).
const CHOICES_MAX: u64 = 256;
/// A range of numbers becomes a rule with an alternative for each length and leading digit.
const BOUNDED_NUMBER_CHOICES: u64 = 8;
/// The keys that say how often something may be repeated.
const REPETITIONS: [&str; 4] = ["minLength", "maxLength", "minItems", "maxItems"];
/// Largest value of these: over 2,000 llama.cpp gives up, and prints the grammar, which is the client's, to stderr.
const REPETITIONS_MAX: f64 = 1000.0;
/// Largest bound of numbers without a bound on the other side. From 16 digits on, the converter writes a repetition that
/// ends before it begins.
const LONE_BOUND_MAX: f64 = 1e14;
/// Different `$ref`s: each is built inside the one that leads to it.
const REFS_MAX: usize = 128;
/// References that lead straight to another one.
const REF_CHAIN_MAX: usize = 16;
/// Longest name of a property in bytes: the grammar for "any other property" nests once for each.
const NAME_BYTES_MAX: usize = 256;

/// Checks `schema`, and returns it as it was understood: written out again, so that two JSON parsers cannot differ about
/// what was checked.
///
/// # Errors
/// What is wrong, as a sentence that is safe to show.
pub(crate) fn check(schema: &str) -> Result<String, &'static str> {
    let root: Value = serde_json::from_str(schema).map_err(|_| "It is not JSON, or is nested too deeply.")?;
    let mut walk = Walk { root: &root, refs: HashSet::new(), visits: 0, choices: 0 };
    walk.visit(&root, 0, 1)?;
    Ok(root.to_string())
}

struct Walk<'a> {
    root: &'a Value,
    refs: HashSet<&'a str>,
    visits: u64,
    choices: u64,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, value: &'a Value, depth: usize, times: u64) -> Result<(), &'static str> {
        if depth > DEPTH_MAX {
            return Err("It is nested too deeply.");
        }
        self.visits = self.visits.saturating_add(times);
        if self.visits > VISITS_MAX {
            return Err("It is too large.");
        }
        match value {
            Value::Object(object) => {
                if object.keys().any(|name| name.len() > NAME_BYTES_MAX) {
                    return Err("A property's name is too long.");
                }
                if object.get("pattern").is_some_and(Value::is_string) {
                    return Err("A pattern cannot be enforced safely; use enum, format, minLength or maxLength.");
                }
                check_repetitions(object)?;
                check_bounds(object)?;
                if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                    self.reference(reference)?;
                }
                let times = times.saturating_mul(branches(object));
                self.choices = self.choices.saturating_add(times.saturating_mul(choices(object)));
                if self.choices > CHOICES_MAX {
                    return Err("It has too many properties, enum values and alternatives in all.");
                }
                object.values().try_for_each(|value| self.visit(value, depth + 1, times))
            }
            Value::Array(array) => array.iter().try_for_each(|value| self.visit(value, depth + 1, times)),
            _ => Ok(()),
        }
    }

    fn reference(&mut self, reference: &'a str) -> Result<(), &'static str> {
        self.refs.insert(reference);
        if self.refs.len() > REFS_MAX {
            return Err("It has too many different references.");
        }
        let mut next = reference;
        for _ in 0..REF_CHAIN_MAX {
            // What leads nowhere the converter refuses by itself.
            match self.resolve(next).and_then(|target| target.get("$ref")).and_then(Value::as_str) {
                Some(further) => next = further,
                None => return Ok(()),
            }
        }
        Err("Its references lead to each other.")
    }

    /// As the converter resolves: by slashes, nothing unescaped.
    fn resolve(&self, reference: &str) -> Option<&'a Value> {
        let steps = reference.strip_prefix("#/")?.split('/');
        steps.into_iter().try_fold(self.root, |value, step| match value {
            Value::Array(array) => array.get(leading_number(step)?),
            other => other.get(step),
        })
    }
}

/// As C++'s `stoull` reads it: what follows the digits does not matter to it.
fn leading_number(text: &str) -> Option<usize> {
    let text = text.trim_start().trim_start_matches('+');
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// llama.cpp's parser counts the repetitions between a minimum and a smaller maximum down from 2⁶⁴, and takes all memory
/// for them. The converter cuts numbers to 32 bits, so a negative one may become any.
fn check_repetitions(object: &Map<String, Value>) -> Result<(), &'static str> {
    let number = |key: &str| object.get(key).and_then(Value::as_f64);
    if REPETITIONS.iter().filter_map(|key| number(key)).any(|times| !(0.0..=REPETITIONS_MAX).contains(&times)) {
        return Err("minLength, maxLength, minItems and maxItems must be between 0 and 1000.");
    }
    for (least, most) in [("minLength", "maxLength"), ("minItems", "maxItems")] {
        if number(least).zip(number(most)).is_some_and(|(least, most)| least > most) {
            return Err("A minimum is over its maximum.");
        }
    }
    Ok(())
}

/// See [`LONE_BOUND_MAX`].
fn check_bounds(object: &Map<String, Value>) -> Result<(), &'static str> {
    let bounds = |keys: [&str; 2]| keys.map(|key| object.get(key).and_then(Value::as_f64));
    let (least, most) = (bounds(["minimum", "exclusiveMinimum"]), bounds(["maximum", "exclusiveMaximum"]));
    let is_bounded = |pair: &[Option<f64>; 2]| pair.iter().any(Option::is_some);
    let too_large = least.iter().chain(&most).flatten().any(|bound| bound.abs() > LONE_BOUND_MAX);
    if too_large && !(is_bounded(&least) && is_bounded(&most)) {
        return Err("A number with more than 14 digits as its only bound cannot be enforced; give both bounds.");
    }
    Ok(())
}

/// The choices that an object opens by itself.
fn choices(object: &Map<String, Value>) -> u64 {
    let listed = ["enum", "anyOf", "oneOf"].iter().filter_map(|key| object.get(*key)?.as_array().map(Vec::len));
    let named = object.get("properties").and_then(Value::as_object).map(Map::len);
    let bounds = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    let bounded = bounds.iter().any(|key| object.get(*key).is_some_and(Value::is_number));
    let counted = listed.chain(named).sum::<usize>();
    u64::try_from(counted).unwrap_or(u64::MAX).saturating_add(if bounded { BOUNDED_NUMBER_CHOICES } else { 0 })
}

/// How often the converter visits what is below an object: once for each of its types that has anything below it.
fn branches(object: &Map<String, Value>) -> u64 {
    let Some(Value::Array(types)) = object.get("type") else { return 1 };
    let nested = types.iter().filter(|name| matches!(name.as_str(), Some("object" | "array" | "string")));
    let leaf_string = !object.contains_key("allOf") && types.iter().any(|name| name == "string");
    let strings = if leaf_string { types.iter().filter(|name| *name == "string").count() } else { 0 };
    u64::try_from(nested.count() - strings).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_overflow_or_multiply_is_refused() {
        let check = |what: &str, schema: &str| {
            let error = check(schema).expect_err(schema.get(..80).unwrap_or(schema));
            assert!(error.contains(what), "{error:?} must say {what:?}");
        };
        check("not JSON", "{");
        check("not JSON", &"[".repeat(60_000));
        check("nested too deeply", &format!("{}{{}}{}", "{\"items\":".repeat(65), "}".repeat(65)));
        check("lead to each other", r##"{"$defs":{"a":{"$ref":"#/$defs/a"}},"allOf":[{"$ref":"#/$defs/a"}]}"##);
        check(
            "lead to each other",
            r##"{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"allOf":[{"$ref":"#/$defs/a"}]}"##,
        );
        check("lead to each other", r##"{"allOf":[{"$ref":"#/allOf/0x"}]}"##);
        let doubled = r#"{"type":["array","array"],"items":"#;
        check("too large", &format!("{}{{}}{}", doubled.repeat(20), "}".repeat(20)));
        for key in REPETITIONS {
            for times in ["1001", "1e300", "-1", "-4294965796"] {
                check("between 0 and 1000", &format!(r#"{{"items":{{"{key}":{times}}}}}"#));
            }
        }
        check("over its maximum", r#"{"type":"string","minLength":7,"maxLength":3}"#);
        check("over its maximum", r#"{"items":{"minItems":1,"maxItems":0}}"#);
        for bound in [r#""minimum":2000000000000000000"#, r#""exclusiveMaximum":-9e15"#] {
            check("only bound", &format!(r#"{{"type":"integer",{bound}}}"#));
        }
        check("too large", &format!("[{}0]", "0,".repeat(20_000)));
        let many = |form: &str| vec![form; 257].join(",");
        let values: String = (0..257).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        check("too many properties", &format!(r#"{{"enum":[{values}]}}"#));
        check("too many properties", &format!(r#"{{"anyOf":[{}]}}"#, many("{}")));
        let names: Vec<String> = (0..257).map(|n| format!(r#""p{n}":{{}}"#)).collect();
        check("too many properties", &format!(r#"{{"properties":{{{}}}}}"#, names.join(",")));
        let ranges = vec![r#"{"type":"integer","minimum":1}"#; 32].join(",");
        check("too many properties", &format!(r#"{{"prefixItems":[{ranges},{{"maximum":2}}]}}"#));
        check("pattern cannot be enforced", r#"{"properties":{"a":{"type":"string","pattern":"^(a?){200}a{200}$"}}}"#);
        check("name is too long", &format!(r#"{{"properties":{{"{}":{{}}}}}}"#, "a".repeat(257)));
        let refs: String = (0..129).map(|n| format!(r##"{{"$ref":"#/a{n}"}},"##)).collect();
        check("too many different references", &format!(r#"{{"anyOf":[{refs}{{}}]}}"#));
    }

    #[test]
    fn real_schemas_pass_unchanged() {
        let check = |schema: &str| {
            let passed: Value = serde_json::from_str(&check(schema).expect(schema)).expect("JSON");
            assert_eq!(passed, serde_json::from_str::<Value>(schema).expect("JSON"));
        };
        check("{}");
        check(r#"{"type":"object","properties":{"pattern":{"type":"string"}}}"#);
        check(r#"{"type":"integer","exclusiveMinimum":0,"maximum":9007199254740991}"#);
        check(r#"{"type":"integer","minimum":99999999999999}"#);
        check(r#"{"type":"array","minItems":1,"maxItems":1000,"items":{"type":"string","maxLength":1000}}"#);
        check(r#"{"type":"object","properties":{"city":{"type":["string","null"]}},"required":["city"]}"#);
        check(
            r##"{"type":"object","properties":{"next":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"null"}]}},"$defs":{"n":{"type":"object","properties":{"next":{"$ref":"#/$defs/n"}}}}}"##,
        );
        let nullable = r#"{"type":["object","null"],"properties":{"a":"#;
        check(&format!("{}{{\"type\":[\"string\",\"null\"]}}{}", nullable.repeat(10), "}}".repeat(10)));
    }
}
