//! Templates that nest as deep as the limits let them: whatever becomes of them, the process lives.

use std::thread;

use super::*;

/// On the stack that loading and preparing have; a debug build's frames are no smaller than a release build's.
fn on_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let bytes = std::env::var("STACK_MIB").map_or(STACK_BYTES, |mib| mib.parse::<usize>().expect("a number") << 20);
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(bytes).spawn_scoped(scope, work);
        thread.expect("a thread").join().expect("no panic")
    })
}

fn load(source: &str) -> Result<ChatTemplate, TemplateError> {
    on_stack(|| ChatTemplate::new(source, TemplateSpecials::default()))
}

/// `open… inner close…`, as often as fit `bytes`.
fn nested(bytes: usize, open: &str, inner: &str, close: &str) -> String {
    let times = (bytes - inner.len() - 8) / (open.len() + close.len());
    [open.repeat(times), inner.to_owned(), close.repeat(times)].concat()
}

#[test]
fn sources_that_nest_are_refused_with_a_reason() {
    let check = |source: String| {
        let error = load(&source).err().unwrap_or_else(|| panic!("{}", &source[..40])).to_string();
        assert!(error.contains("chat_template_file"), "{error}");
    };
    for bytes in [TAG_BYTES_MAX, TEMPLATE_BYTES_MAX] {
        let expression = |open, inner, close| format!("{{{{{}}}}}", nested(bytes, open, inner, close));
        check(expression("(", "1", ")"));
        check(expression("[", "", "]"));
        check(expression("{'a':", "1", "}"));
        check(expression("a[", "1", "]"));
        check(expression("a(", "1", ")"));
    }
    check(nested(TEMPLATE_BYTES_MAX, "{%if a%}", "x", "{%endif%}"));
    check(nested(TEMPLATE_BYTES_MAX, "{%for a in b%}", "x", "{%endfor%}"));
    check(nested(TEMPLATE_BYTES_MAX, "{%macro a()%}", "x", "{%endmacro%}"));
    check(nested(TEMPLATE_BYTES_MAX, "{%filter upper%}", "x", "{%endfilter%}"));
}

#[test]
fn chains_in_a_source_compile_or_are_refused() {
    let expression = |open, inner, close| format!("{{{{{}}}}}", nested(TAG_BYTES_MAX, open, inner, close));
    for source in [
        expression("a+", "a", ""),
        expression("1+", "1", ""),
        expression("a~", "a", ""),
        expression("a.", "a", ""),
        expression("a|", "a", ""),
        expression("", "a", "|e"),
        expression("", "a", "[0]"),
        expression("", "a", "()"),
        expression("", "a", "[:]"),
        expression("-", "a", ""),
        expression("not ", "a", ""),
        expression("a**", "a", ""),
        expression("a and ", "a", ""),
        expression("a or ", "a", ""),
        expression("a<", "a", ""),
        expression("a==", "a", ""),
        expression("a in ", "a", ""),
        expression("a if b else ", "c", ""),
        expression("", "a", " is b"),
        format!("{{%if a%}}{}{{%endif%}}", nested(TEMPLATE_BYTES_MAX - 20, "{%elif a%}", "x", "")),
    ] {
        // It may be refused by the parser, and fail when it is rendered; it is dropped in any case.
        let started = std::time::Instant::now();
        let _ = load(&source);
        assert!(started.elapsed().as_secs() < 20, "{}", &source[..30]);
    }
}

#[test]
fn values_nested_as_deep_as_the_fuel_lasts_are_dropped_and_shown() {
    let messages = question(&"x".repeat(4 << 20));
    for (grow, show) in [
        ("[ns.x]", ""),
        ("[ns.x]", "{{ ns.x }}"),
        ("[ns.x]", "{{ ns.x == [ns.x] }}"),
        ("[ns.x]", "{{ ns.x | tojson }}"),
        ("{'a': ns.x}", "{{ ns.x }}"),
        ("ns.x | list", "{{ ns.x }}"),
    ] {
        // The last is more than the fuel is enough for.
        for times in [100_000, 200_000, 1_000_000] {
            let source = format!(
                "{{% set ns = namespace(x=[]) %}}{{% if messages[0].content | length > 99 %}}\
                 {{% for i in range({times} // 100) %}}{{% for j in range(100) %}}\
                 {{% set ns.x = {grow} %}}{{% endfor %}}{{% endfor %}}{show}{{% endif %}}"
            );
            let template = load(&source).expect("it is harmless but for one conversation");
            if let Err(error) = on_stack(|| template.render(&messages)) {
                assert!(matches!(error, TemplateError::TooComplex | TemplateError::Failed { .. }), "{error}");
            }
        }
    }
}
