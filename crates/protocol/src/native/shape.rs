//! Reading JSON of an unexpected type without failing and without building it.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Number;

use super::scalar::Scalar;

/// What to make of the JSON value at one place. Types that are not expected arrive in [`Shape::scalar`]; arrays and
/// objects among them are skipped, not built (serde_json skips without recursion, so nesting costs nothing).
pub(super) trait Shape<'de>: Sized {
    type Value;

    fn scalar(self, scalar: Scalar) -> Self::Value;

    fn list<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        skip(&mut items)?;
        Ok(self.scalar(Scalar::Compound))
    }

    fn object<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self.scalar(Scalar::Compound))
    }
}

/// Skips the rest of an array.
pub(super) fn skip<'de, A: SeqAccess<'de>>(items: &mut A) -> Result<(), A::Error> {
    while items.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Reads a value as a [`Shape`]; use it with `next_value_seed` and the like.
pub(super) struct Read<S>(pub(super) S);

impl<'de, S: Shape<'de>> DeserializeSeed<'de> for Read<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, S: Shape<'de>> Visitor<'de> for Read<S> {
    type Value = S::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<S::Value, E> {
        Ok(self.0.scalar(Scalar::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<S::Value, E> {
        Ok(self.0.scalar(Scalar::Bool(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<S::Value, E> {
        Ok(self.0.scalar(Scalar::Number(value.into())))
    }

    fn visit_i64<E>(self, value: i64) -> Result<S::Value, E> {
        Ok(self.0.scalar(Scalar::Number(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<S::Value, E> {
        // JSON has no infinities, and serde_json refuses numbers that would become one.
        Ok(self.0.scalar(Number::from_f64(value).map_or(Scalar::Null, Scalar::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<S::Value, E> {
        Ok(self.0.scalar(Scalar::Text(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<S::Value, E> {
        Ok(self.0.scalar(Scalar::Text(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<S::Value, A::Error> {
        self.0.list(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<S::Value, A::Error> {
        self.0.object(members)
    }
}
