use serde_json::Number;

use super::{DECIMAL_DIGITS_MAX, shape::Shape};
use crate::ApiError;

/// A JSON value of which only scalars are kept.
#[derive(Clone, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    /// An array or an object.
    Compound,
}

/// Reads any value as a [`Scalar`].
pub(super) struct AnyScalar;

impl Shape<'_> for AnyScalar {
    type Value = Scalar;

    fn scalar(self, scalar: Scalar) -> Scalar {
        scalar
    }
}

impl Scalar {
    pub(super) fn text(&self, name: &str) -> Result<&str, ApiError> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err(ApiError::invalid(name, format!("{name} must be a string."))),
        }
    }

    pub(super) fn boolean(&self, name: &str) -> Result<bool, ApiError> {
        match self {
            Self::Bool(value) => Ok(*value),
            _ => Err(ApiError::invalid(name, format!("{name} must be true or false."))),
        }
    }

    /// A whole number, also as a decimal string.
    pub(super) fn unsigned(&self, name: &str) -> Result<u64, ApiError> {
        let value = match self {
            Self::Number(number) => number.as_u64(),
            Self::Text(text) => decimal(text).and_then(|digits| digits.parse().ok()),
            _ => None,
        };
        value.ok_or_else(|| ApiError::invalid(name, format!("{name} must be a whole number that is not negative.")))
    }

    /// As [`Self::unsigned`], with what does not fit read as the largest: such fields are upper limits.
    pub(super) fn limit(&self, name: &str) -> Result<u32, ApiError> {
        Ok(u32::try_from(self.unsigned(name)?).unwrap_or(u32::MAX))
    }

    /// A number, also as a decimal string. Its range is checked with the whole request.
    pub(super) fn float(&self, name: &str) -> Result<f32, ApiError> {
        let value = match self {
            #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is what is meant")]
            Self::Number(number) => number.as_f64().map(|wide| wide as f32),
            Self::Text(text) => text.parse().ok().filter(|value: &f32| value.is_finite()),
            _ => None,
        };
        value.ok_or_else(|| ApiError::invalid(name, format!("{name} must be a number.")))
    }
}

/// The digits of a decimal string without leading zeros, so that one number has one name.
pub(super) fn decimal(text: &str) -> Option<&str> {
    if !(1..=DECIMAL_DIGITS_MAX).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(match text.trim_start_matches('0') {
        "" => "0",
        digits => digits,
    })
}
