//! Which token is next.
//!
//! Greedy without anything else is a plain maximum. Otherwise llama.cpp's samplers filter the candidates and the last
//! draw is ours: the random number of a token is a function of the request's seed and the token's index, so a request
//! that is resumed by another worker draws what it would have drawn.

use engine_ipc::{Refusal, Token};
use llama_cpp_2::{
    model::LlamaModel,
    sampling::LlamaSampler,
    token::{LlamaToken, data::LlamaTokenData, data_array::LlamaTokenDataArray, logit_bias::LlamaLogitBias},
};
use protocol::inference::{ResponseFormat, Sampling};

use crate::{ffi, schema};

/// Tokens of the answer that the repetition penalty looks back at (llama.cpp's own default). The frequency and presence
/// penalties are OpenAI's: they look at the whole answer.
const REPEAT_WINDOW: i32 = 64;
/// Candidates less likely than the best by this many nats at the final temperature (e⁻³⁰ is 10⁻¹³) are not considered:
/// all of a vocabulary of 49,152 together would be drawn once in a hundred million tokens, and to weigh them each time
/// costs more than a small model's own share of a step.
const NEGLIGIBLE_NATS: f32 = 30.0;
/// Makes the second draw's random numbers others than the first's.
const SECOND_DRAW: u64 = 0xD1B5_4A32_D192_ED03;
/// Any JSON object.
const JSON_OBJECT_SCHEMA: &str = r#"{"type":"object"}"#;

/// Chooses the tokens of one request.
pub(crate) struct Sampler {
    /// `None`: the plain maximum.
    chain: Option<LlamaSampler>,
    grammar: Option<LlamaSampler>,
    greedy: bool,
    /// Candidates that are less likely than the best by more nats than this play no part; none where penalties or
    /// biases change who is likely.
    negligible_nats: Option<f32>,
    seed: u64,
    /// Ends the model's turn; what is left where a grammar allows nothing.
    end: Token,
}

impl Sampler {
    /// # Errors
    /// [`Refusal::Invalid`] for a schema that is no grammar, or a bias outside the vocabulary.
    pub(crate) fn new(
        model: &LlamaModel,
        sampling: &Sampling,
        answer_tokens_max: u32,
        format: &ResponseFormat,
        seed: u64,
    ) -> Result<Self, Refusal> {
        let vocabulary = model.n_vocab();
        let mut samplers = Vec::new();
        if !sampling.logit_bias.is_empty() {
            samplers.push(LlamaSampler::logit_bias(vocabulary, &biases(sampling, vocabulary)?));
        }
        let repeat = (sampling.repeat_penalty - 1.0).abs() > f32::EPSILON;
        if repeat {
            samplers.push(LlamaSampler::penalties(vocabulary, REPEAT_WINDOW, sampling.repeat_penalty, 0.0, 0.0));
        }
        let (frequency, presence) = (sampling.frequency_penalty, sampling.presence_penalty);
        let counted = frequency != 0.0 || presence != 0.0;
        if counted {
            let whole_answer = i32::try_from(answer_tokens_max.max(1)).unwrap_or(i32::MAX);
            samplers.push(LlamaSampler::penalties(vocabulary, whole_answer, 1.0, frequency, presence));
        }
        let penalised = repeat || counted;
        let greedy = sampling.temperature <= 0.0;
        if !greedy {
            if sampling.top_k > 0 {
                samplers.push(LlamaSampler::top_k(i32::try_from(sampling.top_k).unwrap_or(i32::MAX).min(vocabulary)));
            }
            if sampling.top_p < 1.0 {
                samplers.push(LlamaSampler::top_p(sampling.top_p, 1));
            }
            if sampling.min_p > 0.0 {
                samplers.push(LlamaSampler::min_p(sampling.min_p, 1));
            }
            samplers.push(LlamaSampler::temp(sampling.temperature));
        }
        let chain = (!samplers.is_empty()).then(|| LlamaSampler::chain(samplers, true));
        let negligible_nats = (!penalised && sampling.logit_bias.is_empty())
            // The filters look at the distribution before the temperature is applied.
            .then_some(NEGLIGIBLE_NATS * sampling.temperature.max(1.0));
        let end = model.vocab().eos().0;
        Ok(Self { chain, grammar: grammar(model, format)?, greedy, negligible_nats, seed, end })
    }

    /// The token number `index` of the answer, by these logits.
    pub(crate) fn sample(&mut self, logits: &[f32], index: u32) -> Token {
        let token = match (&mut self.chain, &self.grammar) {
            (None, None) => argmax(logits),
            _ => self.filtered(logits, index),
        };
        self.accept(token);
        token
    }

    /// Takes note of a token that was generated, by this worker or an earlier one.
    pub(crate) fn accept(&mut self, token: Token) {
        if let Some(chain) = &mut self.chain {
            chain.accept(LlamaToken(token));
        }
        // A token that the grammar does not allow (generated under another build) ends its enforcement.
        if let Some(grammar) = &mut self.grammar
            && grammar.try_accept(LlamaToken(token)).is_err()
        {
            self.grammar = None;
        }
    }

    fn filtered(&mut self, logits: &[f32], index: u32) -> Token {
        let token = if self.chain.is_none() {
            argmax(logits)
        } else {
            self.draw(candidates(logits, self.negligible_nats), uniform(self.seed, index))
        };
        let Some(grammar) = &mut self.grammar else { return token };
        // A grammar is costly on a whole vocabulary and mostly allows what the model wants anyway: ask about that first.
        let mut wanted = LlamaTokenDataArray::new(vec![LlamaTokenData::new(LlamaToken(token), 1.0, 0.0)], false);
        wanted.apply_sampler(grammar);
        if wanted.data.first().is_some_and(|allowed| allowed.logit() > f32::NEG_INFINITY) {
            return token;
        }
        let mut allowed = candidates(logits, None);
        allowed.apply_sampler(grammar);
        allowed.data.retain(|candidate| candidate.logit() > f32::NEG_INFINITY);
        if self.end >= 0 && allowed.data.is_empty() {
            // A schema can be impossible to fulfil. llama.cpp aborts the process when it is told of an end that its
            // grammar did not allow, so it is not told.
            self.grammar = None;
            return self.end;
        }
        // Another number than the first draw's: that one is known to fall on what was not allowed.
        self.draw(allowed, uniform(self.seed ^ SECOND_DRAW, index))
    }

    /// Chooses by `random` in [0, 1) among the candidates that the filters leave.
    fn draw(&mut self, mut candidates: LlamaTokenDataArray, random: f64) -> Token {
        if let Some(chain) = &mut self.chain {
            candidates.apply_sampler(chain);
        }
        let best = candidates.data.iter().max_by(|a, b| a.logit().total_cmp(&b.logit()));
        let Some(best) = best.map(|best| (best.id().0, best.logit())) else { return self.end.max(0) };
        if self.greedy {
            return best.0;
        }
        let mut total = 0.0;
        for candidate in &mut candidates.data {
            let weight = (candidate.logit() - best.1).exp();
            candidate.set_p(weight);
            total += f64::from(weight);
        }
        let mut left = random * total;
        for candidate in &candidates.data {
            left -= f64::from(candidate.p());
            if left < 0.0 {
                return candidate.id().0;
            }
        }
        best.0
    }
}

fn biases(sampling: &Sampling, vocabulary: i32) -> Result<Vec<LlamaLogitBias>, Refusal> {
    let bias = |(token, bias): &(u32, f32)| {
        let token = i32::try_from(*token).ok().filter(|token| *token < vocabulary);
        token.map(|token| LlamaLogitBias::new(LlamaToken(token), *bias)).ok_or_else(|| Refusal::Invalid {
            param: "logit_bias".into(),
            message: format!("logit_bias names a token outside the vocabulary of {vocabulary} tokens."),
        })
    };
    sampling.logit_bias.iter().map(bias).collect()
}

/// The grammar of a format; made on the prepare thread.
fn grammar(model: &LlamaModel, format: &ResponseFormat) -> Result<Option<LlamaSampler>, Refusal> {
    let schema = match format {
        ResponseFormat::Text => return Ok(None),
        ResponseFormat::JsonObject => JSON_OBJECT_SCHEMA,
        ResponseFormat::JsonSchema(schema) => schema,
    };
    let invalid = |why: &str| Refusal::Invalid {
        param: "response_format".into(),
        message: format!("The JSON schema cannot be enforced. {why}"),
    };
    let unknown = "It is not valid, or uses what llama.cpp's grammars do not know.";
    let schema = schema::check(schema).map_err(invalid)?;
    // What they refuse they print, and that is the client's.
    ffi::without_stderr(|| {
        let grammar = llama_cpp_2::json_schema_to_grammar(&schema).ok()?;
        LlamaSampler::grammar(model, &grammar, "root").ok()
    })
    .map(Some)
    .ok_or_else(|| invalid(unknown))
}

/// The candidates; without those that are `negligible_nats` less likely than the best, where that is given.
fn candidates(logits: &[f32], negligible_nats: Option<f32>) -> LlamaTokenDataArray {
    let floor =
        negligible_nats.and_then(|nats| logits.get(argmax(logits).unsigned_abs() as usize).map(|best| best - nats));
    let candidate = |(token, logit): (i32, &f32)| LlamaTokenData::new(LlamaToken(token), *logit, 0.0);
    let all = (0..).zip(logits);
    let data = match floor {
        Some(floor) => all.filter(|(_, logit)| **logit >= floor).map(candidate).collect(),
        None => all.map(candidate).collect(),
    };
    LlamaTokenDataArray::new(data, false)
}

/// The first of the largest. In two passes that the compiler vectorises: the maximum, then where it is.
fn argmax(logits: &[f32]) -> Token {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = logits.chunks_exact(16);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = if *logit > *lane { *logit } else { *lane };
        }
    }
    let max = lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |max, logit| if *logit > max { *logit } else { max });
    let found = logits.iter().position(|logit| *logit == max).unwrap_or(0);
    Token::try_from(found).unwrap_or(0)
}

/// A number in [0, 1) from the seed and the token's index (SplitMix64).
fn uniform(seed: u64, index: u32) -> f64 {
    let mut x = seed.wrapping_add(u64::from(index).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 31;
    (x >> 11) as f64 / (1_u64 << 53) as f64
}

/// Natural logarithms of probabilities before temperature and filters: the chosen token's and the `top` best.
pub(crate) fn logprobs(logits: &[f32], chosen: Token, top: u8) -> (f32, Vec<(Token, f32)>) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let log_sum = max + sum.ln() as f32;
    let mut best: Vec<(Token, f32)> = Vec::with_capacity(usize::from(top) + 1);
    if top > 0 {
        for (token, logit) in (0..).zip(logits) {
            if best.len() < usize::from(top) || best.last().is_some_and(|(_, worst)| logit > worst) {
                let at = best.partition_point(|(_, other)| other >= logit);
                best.insert(at, (token, *logit));
                best.truncate(usize::from(top));
            }
        }
    }
    let chosen =
        usize::try_from(chosen).ok().and_then(|chosen| logits.get(chosen)).copied().unwrap_or(f32::NEG_INFINITY);
    (chosen - log_sum, best.into_iter().map(|(token, logit)| (token, logit - log_sum)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maximum_is_the_first_of_the_largest() {
        let check = |logits: &[f32], expected| assert_eq!(argmax(logits), expected, "{logits:?}");
        check(&[], 0);
        check(&[1.0, 3.0, 3.0], 1);
        let mut many = vec![-1.0; 1000];
        many[999] = 2.0;
        check(&many, 999);
        many[17] = 2.0;
        check(&many, 17);
    }

    #[test]
    fn only_negligible_candidates_are_left_out() {
        let check = |logits: &[f32], nats, expected: &[i32]| {
            let kept: Vec<i32> = candidates(logits, nats).data.iter().map(|candidate| candidate.id().0).collect();
            assert_eq!(kept, expected, "{logits:?} {nats:?}");
        };
        check(&[0.0, 31.0, 1.0, 30.0], Some(30.0), &[1, 2, 3]);
        check(&[0.0, 31.0, 1.0, 30.0], None, &[0, 1, 2, 3]);
        check(&[-5.0; 3], Some(30.0), &[0, 1, 2]);
        check(&[], Some(30.0), &[]);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let mut sampler = Sampler { chain: None, grammar: None, greedy: false, negligible_nats: None, seed: 9, end: 0 };
        let logits = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln(), f32::NEG_INFINITY];
        let mut counts = [0_u32; 4];
        for index in 0..20_000 {
            let token = sampler.draw(candidates(&logits, None), uniform(9, index));
            counts[token.unsigned_abs() as usize] += 1;
        }
        for (count, expected) in counts.iter().zip([0.5, 0.3, 0.2, 0.0]) {
            assert!((f64::from(*count) / 20_000.0 - expected).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn random_numbers_depend_on_seed_and_index_alone() {
        assert_eq!(uniform(7, 3).to_bits(), uniform(7, 3).to_bits());
        assert_ne!(uniform(7, 3).to_bits(), uniform(7, 4).to_bits());
        assert_ne!(uniform(7, 3).to_bits(), uniform(8, 3).to_bits());
        let mean: f64 = (0..10_000).map(|index| uniform(42, index)).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }

    #[test]
    fn logprobs_are_a_log_softmax_with_the_best_first() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        let (chosen, top) = logprobs(&logits, 1, 2);
        let total: f32 = logits.iter().map(|logit| logit.exp()).sum();
        assert!((chosen - (1.0 - total.ln())).abs() < 1e-5);
        assert_eq!(top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [2, 1]);
        assert!((top[1].1 - chosen).abs() < 1e-6);
    }
}
