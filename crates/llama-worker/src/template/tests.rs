mod nesting;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;

/// The moment that `fixtures/render.py` renders at: 2026-11-24 09:05:03 UTC.
const NOW_SECS: u64 = 1_795_511_103;

/// Family, case, and what the reference made of it: `text`, or `raised` or `failed` with a reason.
type Expected = BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>>;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/template/fixtures")
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cases() -> BTreeMap<String, Vec<Message>> {
    read(&fixtures().join("cases.json"))
}

fn template(folder: &Path, name: &str) -> ChatTemplate {
    let source = fs::read_to_string(folder.join(format!("{name}.jinja"))).expect(name);
    compile(&source)
}

fn compile(source: &str) -> ChatTemplate {
    let specials = TemplateSpecials { bos_token: "<bos>".into(), eos_token: "<eos>".into() };
    ChatTemplate::new(source, specials).expect(source)
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECS)
}

fn question(text: &str) -> Vec<Message> {
    vec![Message { role: Role::User, content: text.into() }]
}

/// Every rendering that differs from the reference's, and how many agree.
fn compare(folder: &Path) -> (Vec<String>, usize) {
    let (cases, expected) = (cases(), read::<Expected>(&folder.join("expected.json")));
    let (mut differences, mut agreed) = (Vec::new(), 0);
    for (family, expectations) in &expected {
        let template = template(folder, family);
        for (case, reference) in expectations {
            let Some(text) = reference.get("text") else { continue };
            match template.render_exactly(&cases[case], now()) {
                Ok(rendered) if rendered == *text => agreed += 1,
                other => differences.push(format!("{family}, {case}:\n  got      {other:?}\n  expected {text:?}")),
            }
        }
    }
    (differences, agreed)
}

/// A folder of published templates with their `expected.json` (see `fixtures/render.py`) is compared as well.
const MORE_TEMPLATES: &str = "LLM_NODE_TEST_TEMPLATES";

#[test]
fn renderings_equal_the_reference_implementation() {
    let more = std::env::var_os(MORE_TEMPLATES).map(PathBuf::from);
    for folder in std::iter::once(fixtures()).chain(more) {
        let (differences, agreed) = compare(&folder);
        assert!(differences.is_empty(), "{}", differences.join("\n"));
        assert!(agreed > 150, "only {agreed} cases compared");
    }
}

#[test]
fn families_render_as_their_model_cards_say() {
    let check = |family: &str, case: &str, expected: &str| {
        let rendered = template(&fixtures(), family).render_at(&cases()[case], now()).expect(family);
        assert_eq!(rendered.text, expected, "{family}, {case}");
    };
    check(
        "chatml-smollm2",
        "one question",
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n",
    );
    check(
        "llama-3.1",
        "system and question",
        "<bos><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n\
         Answer in one word.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhat is 2 + 2?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n",
    );
    check(
        "gemma-2",
        "three turns",
        "<bos><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nHi! How can I help?<end_of_turn>\n\
         <start_of_turn>user\nTell me a joke.<end_of_turn>\n<start_of_turn>model\n",
    );
    check("mistral-v3", "system and question", "<bos>[INST] Answer in one word.\n\nWhat is 2 + 2?[/INST]");
    check(
        "mistral-tekken",
        "three turns",
        "<bos>[INST]Hello[/INST]Hi! How can I help?<eos>[INST]Tell me a joke.[/INST]",
    );
    check(
        "qwen-3",
        "reasoning in history",
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi!<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n\
         <|im_start|>assistant\n",
    );
    check("phi-3", "one question", "<|user|>\nWhat is 2 + 2?<|end|>\n<|assistant|>\n");
    check("phi-4", "one question", "<|im_start|>user<|im_sep|>What is 2 + 2?<|im_end|><|im_start|>assistant<|im_sep|>");
    check("deepseek-r1-distill", "one question", "<bos><｜User｜>What is 2 + 2?<｜Assistant｜><think>\n");
}

#[test]
fn what_a_template_refuses_is_restated() {
    let cases = cases();
    let check = |family: &str, case: &str, restated: &str| {
        let template = template(&fixtures(), family);
        let rendered =
            template.render_at(&cases[case], now()).unwrap_or_else(|error| panic!("{family}, {case}: {error}"));
        let expected = template.render_exactly(&cases[restated], now()).expect(restated);
        assert_eq!(rendered.text, expected, "{family}, {case}");
    };
    check("gemma-2", "system and question", "system folded into question");
    check("gemma-2", "system and three turns", "system folded into three turns");
    check("phi-3-no-system", "system and question", "system folded into question");
    for family in ["gemma-2", "gemma-3", "mistral-v3", "mistral-tekken"] {
        check(family, "two users in a row", "two users as one");
        check(family, "tool result", "tool result as user");
        check(family, "greeting first", "greeting after silence");
    }
    for family in ["phi-3", "phi-4"] {
        let rendered = template(&fixtures(), family).render_at(&cases["tool result"], now()).expect(family);
        assert!(
            rendered.text.contains("21 degrees") && rendered.text.contains("sunny"),
            "{family} lost a tool's result"
        );
    }
    // Where a template takes what was sent, nothing is restated.
    check("qwen-2.5", "two users in a row", "two users in a row");
    check("llama-3.1", "tool result", "tool result");
}

#[test]
fn reasoning_is_seen_where_the_template_opens_it() {
    let check = |family: &str, tags: bool, starts: bool| {
        let template = template(&fixtures(), family);
        assert_eq!(template.reasoning_tags(), tags.then(|| ("<think>".into(), "</think>".into())), "{family}");
        let rendered = template.render(&question("Hello")).expect(family);
        assert_eq!(rendered.starts_in_reasoning, starts, "{family}");
    };
    check("deepseek-r1-distill", true, true);
    check("qwen-3", true, false);
    check("chatml-smollm2", false, false);

    let ends_with_client_text = compile("{# <think> #}{{ messages[0].content }}");
    assert!(!ends_with_client_text.render(&question("look: <think>")).expect("renders").starts_in_reasoning);
    let closes_at_once = compile("{{ messages[0].content }}<think>\n\n</think>\n\n");
    assert!(!closes_at_once.render(&question("Hello")).expect("renders").starts_in_reasoning);
}

#[test]
fn a_refusal_quotes_the_template_and_never_a_message() {
    let constant = compile("{{ raise_exception('Only limericks are supported!') }}");
    let error = constant.render(&question("the secret words")).expect_err("refused");
    assert_eq!(error, TemplateError::Rejected { reason: Some("Only limericks are supported!".into()) });
    let quoting = compile("{{ raise_exception('No: ' + messages[0].content) }}");
    let error = quoting.render(&question("the secret words")).expect_err("refused");
    assert_eq!(error, TemplateError::Rejected { reason: None });
    assert_eq!(error.to_string(), "the model's chat template does not accept these messages");
}

#[test]
fn broken_templates_are_refused_with_their_place() {
    let check = |source: &str, line: usize| match ChatTemplate::new(source, TemplateSpecials::default()) {
        Err(TemplateError::Syntax { line: found, .. }) => assert_eq!(found, line, "{source}"),
        other => panic!("{source}: {other:?}"),
    };
    check("{% if %}", 1);
    check("\n\n{{ unclosed", 3);
    check("{% for message in messages %}", 1);
    check(&format!("{{{{ {}1{} }}}}", "(".repeat(4_000), ")".repeat(4_000)), 1);
    let large = "x".repeat(TEMPLATE_BYTES_MAX + 1);
    let bytes = large.len();
    let error = ChatTemplate::new(&large, TemplateSpecials::default()).expect_err("too large");
    assert_eq!(error, TemplateError::TooLarge { bytes });
    let long = format!("{{{{ {}a }}}}", "a+".repeat(TAG_BYTES_MAX / 2));
    let error = ChatTemplate::new(&long, TemplateSpecials::default()).expect_err("too long");
    assert_eq!(error, TemplateError::TagTooLong { bytes: TAG_BYTES_MAX + 3 });
}

#[test]
fn hostile_templates_end_soon() {
    let check = |source: &str| {
        let error = compile(source).render(&question("Hello")).expect_err(source);
        assert!(matches!(error, TemplateError::TooComplex | TemplateError::Failed { .. }), "{source}: {error:?}");
    };
    check(
        "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}",
    );
    check("{% set ns = namespace(x='ab') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}");
    check("{{ 'x' * 1000000000000 }}");
    check("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
    check("{% include 'chat_template' %}");
    check(
        "{% set ns = namespace(x=[]) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
    );
    check("{{ [1] | tojson(indent=1000000000) }}");
    check("{{ strftime_now('%A' * 100000) }}");
    check("{{ 1 // 0 }}");
    check("{{ no_such_function() }}");
}

#[test]
fn long_conversations_have_fuel_enough() {
    let turn = |index: usize| Message {
        role: if index.is_multiple_of(2) { Role::User } else { Role::Assistant },
        content: "a sentence of some words. ".repeat(40),
    };
    let messages: Vec<_> = (0..2001).map(turn).collect();
    for family in ["chatml-smollm2", "llama-3.1", "gemma-3", "mistral-tekken", "qwen-3", "deepseek-r1-distill"] {
        let rendered =
            template(&fixtures(), family).render(&messages).unwrap_or_else(|error| panic!("{family}: {error}"));
        assert!(rendered.text.len() > 2_000_000, "{family}");
    }
}

#[test]
fn debug_output_holds_no_content() {
    let rendered = compile("{{ messages[0].content }}").render(&question("the secret words")).expect("renders");
    assert!(!format!("{rendered:?}").contains("secret"));
}
