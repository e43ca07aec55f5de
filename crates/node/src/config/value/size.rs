use super::{Raw, Value};

/// A number of bytes, written with a binary unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

/// Units in bytes, largest first.
const UNITS: &[(&str, u64)] = &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl ByteSize {
    /// So many KiB.
    pub(crate) const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// So many MiB.
    pub(crate) const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// For buffers and collections of this process.
    pub(crate) fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl std::fmt::Display for ByteSize {
    /// With the largest unit that keeps one digit before the point, to one decimal.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (unit, factor) = UNITS.iter().find(|(_, factor)| self.0 >= *factor).unwrap_or(&("B", 1));
        if self.0.is_multiple_of(*factor) {
            write!(f, "{} {unit}", self.0 / factor)
        } else {
            write!(f, "{:.1} {unit}", self.0 as f64 / *factor as f64)
        }
    }
}

impl Value for ByteSize {
    fn expected() -> String {
        "a size such as \"512B\", \"64KiB\", \"4MiB\" or \"1GiB\"".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        if let Raw::Integer(bytes) = raw {
            return u64::try_from(*bytes).ok().map(Self);
        }
        let text = raw.text()?.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = text.split_at(end);
        let (_, factor) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?;
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(*factor).map(Self);
        }
        let bytes = number.parse::<f64>().ok()? * *factor as f64;
        // Below 2^53 a float holds every whole number.
        (bytes.fract() == 0.0 && bytes < (1_u64 << 53) as f64).then_some(Self(bytes as u64))
    }

    fn show(&self) -> String {
        let (unit, factor) =
            UNITS.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor)).unwrap_or(&("B", 1));
        format!("\"{}{unit}\"", self.0 / factor)
    }
}
