use std::time::Duration;

use super::{Raw, Value};

/// Units in milliseconds, largest first.
const UNITS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Value for Duration {
    fn expected() -> String {
        "a duration such as \"500ms\", \"30s\", \"5m\", \"2h\" or \"1d\"".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        let text = raw.text()?.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(digits);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
        number.parse::<u64>().ok()?.checked_mul(*factor).map(Self::from_millis)
    }

    fn show(&self) -> String {
        let millis = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        let (unit, factor) = UNITS
            .iter()
            .find(|(_, factor)| millis >= *factor && millis.is_multiple_of(*factor))
            .unwrap_or(&("s", 1000));
        format!("\"{}{unit}\"", millis / factor)
    }
}
