use proptest::prelude::*;

use super::*;

/// Text, reasoning, tokens and whether it stopped, with one `take` a token as the supervisor does.
fn assemble(stop: &[&str], tags: Option<ReasoningTags>, tokens: &[&[u8]]) -> (String, String, u32, bool) {
    let mut assembler = Assembler::new(stop.iter().map(|&s| s.to_owned()).collect(), tags);
    let mut all = Delta::default();
    let add = |all: &mut Delta, delta: Option<Delta>| {
        if let Some(delta) = delta {
            all.text.push_str(&delta.text);
            all.reasoning.push_str(&delta.reasoning);
            all.tokens += delta.tokens;
        }
    };
    let mut stopped = false;
    for token in tokens {
        if assembler.push(token, None) == Flow::Stopped {
            stopped = true;
            break;
        }
        add(&mut all, assembler.take());
    }
    add(&mut all, assembler.finish());
    assert_eq!(assembler.counted().completion_tokens, all.tokens, "counted is the sum of the deltas");
    assert!(assembler.counted().reasoning_tokens <= all.tokens);
    (all.text, all.reasoning, all.tokens, stopped)
}

fn think(starts_inside: bool) -> Option<ReasoningTags> {
    Some(ReasoningTags { open: "<think>".into(), close: "</think>".into(), starts_inside })
}

#[test]
fn stop_strings_end_the_answer() {
    let check = |stop: &[&str], tokens: &[&str], text: &str, counted: u32, stopped: bool| {
        let bytes: Vec<&[u8]> = tokens.iter().map(|token| token.as_bytes()).collect();
        assert_eq!(assemble(stop, None, &bytes), (text.into(), String::new(), counted, stopped), "{stop:?} {tokens:?}");
    };
    check(&["END"], &["a", "E", "N", "D", "b"], "a", 4, true);
    check(&["END"], &["a E", "ND b"], "a ", 2, true);
    check(&["END"], &["a", "EN", "x"], "aENx", 3, false);
    check(&["END"], &["a", "EN"], "aEN", 2, false);
    check(&["END"], &["EEND"], "E", 1, true);
    check(&["aab"], &["a", "a", "a", "b"], "a", 4, true);
    // The one that is complete first wins, whatever the cuts.
    check(&["abcd", "bc"], &["abcd"], "a", 1, true);
    check(&["abcd", "bc"], &["a", "b", "c", "d"], "a", 3, true);
    check(&["bc", "abc"], &["xabc"], "x", 1, true);
    check(&["→é"], &["a→", "é"], "a", 2, true);
    check(&[""], &["a"], "a", 1, false);
    check(&[], &["a", "", "b"], "ab", 3, false);
}

#[test]
fn a_stop_string_is_found_across_the_bytes_of_a_character() {
    let bytes = "a→b".as_bytes();
    let tokens: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(assemble(&["→"], None, &tokens), ("a".into(), String::new(), 4, true));
}

#[test]
fn reasoning_is_separated() {
    let check = |starts_inside: bool, tokens: &[&str], reasoning: &str, text: &str| {
        let bytes: Vec<&[u8]> = tokens.iter().map(|token| token.as_bytes()).collect();
        let (got_text, got_reasoning, counted, _) = assemble(&["STOP"], think(starts_inside), &bytes);
        assert_eq!((got_reasoning.as_str(), got_text.as_str()), (reasoning, text), "{tokens:?}");
        assert_eq!(counted as usize, tokens.len());
    };
    check(false, &["<think>", "\n", "hm", "</think>", "\n\n", "yes"], "hm", "yes");
    check(false, &["\n<th", "ink>h", "m</", "thi", "nk>yes"], "hm", "yes");
    check(false, &["no <think> here"], "", "no <think> here");
    check(false, &[" <thi", "s"], "", " <this");
    check(false, &["<thi"], "", "<thi");
    check(false, &["<think>", "a </thi", "s"], "a </this", "");
    check(false, &["<think>never closed </"], "never closed </", "");
    check(true, &["\nhm</think>\n", "\nyes"], "hm", "yes");
    check(true, &["</think>yes <think>"], "", "yes <think>");
    check(true, &["STOP is not for reasoning", "</think>", "yes"], "STOP is not for reasoning", "yes");
}

#[test]
fn reasoning_tokens_are_those_between_the_tags_and_the_tags() {
    let mut assembler = Assembler::new(vec![], think(false));
    for token in ["<think>", "a", "b", "</think>", "\n", "yes"] {
        assembler.push(token.as_bytes(), None);
        assembler.take();
    }
    assembler.finish();
    assert_eq!(assembler.counted(), Counted { completion_tokens: 6, reasoning_tokens: 4 });
}

#[test]
fn held_tokens_travel_with_the_text_that_frees_them() {
    let mut assembler = Assembler::new(vec!["END".into()], None);
    assembler.push(b"E", None);
    assert_eq!(assembler.take(), None);
    assert_eq!(assembler.counted(), Counted::default(), "not delivered, not counted");
    assembler.push(b"x", None);
    let delta = assembler.take().expect("freed");
    assert_eq!((delta.text.as_str(), delta.tokens), ("Ex", 2));
}

/// Cuts `bytes` at the given places, which may repeat.
fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn any_chunking_gives_the_lossy_text(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..64), "\\PC{0,16}".prop_map(String::into_bytes)],
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let tokens = cut(&bytes, &places);
        let (text, _, counted, stopped) = assemble(&[], None, &tokens);
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        prop_assert_eq!(counted as usize, tokens.len());
        prop_assert!(!stopped);
    }

    #[test]
    fn no_stop_string_is_ever_shown_and_cuts_do_not_matter(
        text in "[ab→<]{0,40}",
        stops in prop::collection::vec("[ab→]{1,4}", 0..4),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let (cut_text, _, counted, stopped) = assemble(&stops, None, &cut(text.as_bytes(), &places));
        let (whole_text, _, _, whole_stopped) = assemble(&stops, None, &[text.as_bytes()]);
        prop_assert!(text.starts_with(&cut_text));
        prop_assert!(stops.iter().all(|stop| !cut_text.contains(stop)));
        prop_assert_eq!(stopped, stops.iter().any(|stop| text.contains(stop)));
        prop_assert!(stopped || cut_text == text);
        prop_assert!(counted as usize <= places.len() + 1);
        prop_assert_eq!((cut_text, stopped), (whole_text, whole_stopped));
    }

    #[test]
    fn cuts_do_not_move_reasoning(
        text in "(<think>)?[ab\n<]{0,10}(</think>)?[ab\n<]{0,10}",
        starts_inside: bool,
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let (cut_text, cut_reasoning, ..) = assemble(&["ab"], think(starts_inside), &cut(text.as_bytes(), &places));
        let (whole_text, whole_reasoning, ..) = assemble(&["ab"], think(starts_inside), &[text.as_bytes()]);
        prop_assert_eq!((cut_text, cut_reasoning), (whole_text, whole_reasoning));
    }
}
