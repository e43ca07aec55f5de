//! One declaration per section, from which come its struct, reading, documentation and reload.
//!
//! ```text
//! section! {
//!     /// What the section is about.
//!     Server as "server" {
//!         /// What the key does.
//!         live connections_max: u32 = 1024, 1..=65_536;
//!     }
//! }
//! ```
//! `live` takes effect on reload, `restart` at the next start.

use std::{collections::BTreeMap, ops::RangeInclusive};

use crate::config::{
    problem::{Origin, Problem},
    value::{Raw, Secret, Value},
};

/// When a new value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reload {
    /// On reload, on live connections where that is possible.
    Live,
    /// At the next start.
    Restart,
}

/// A key, for documentation and lookup.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    /// Its section.
    pub(crate) section: &'static str,
    /// Its name there.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) doc: &'static str,
    /// Its default as TOML; empty where it is optional and not set.
    pub(crate) default: String,
    /// What it takes.
    pub(crate) expected: String,
    /// When a new value takes effect.
    pub(crate) reload: Reload,
    /// Whether it must not be shown. It can then also be given as `<name>_file`.
    pub(crate) secret: bool,
}

impl Field {
    /// `section.name`.
    pub(crate) fn key(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

/// A key whose value differs between two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// `section.name`.
    pub(crate) key: String,
    /// When it takes effect.
    pub(crate) reload: Reload,
}

/// A section of the configuration.
pub(crate) trait Section: Sized + Default {
    /// Its name.
    const KEY: &'static str;
    /// What it is about.
    const DOC: &'static str;

    /// Its keys in the order of their declaration.
    fn fields() -> Vec<Field>;

    /// Takes its values out of `reader`; what is wrong is noted there and replaced by its default.
    fn read(reader: &mut Reader) -> Self;

    /// Each key with its value as TOML.
    fn shown(&self) -> Vec<(&'static str, String)>;

    /// Keys whose values differ in `new`.
    fn changes(&self, new: &Self) -> Vec<Change>;

    /// These values, but those of `new` where they take effect live.
    fn with_live(&self, new: &Self) -> Self;
}

/// Values a number may have.
pub(crate) struct Bounds<T> {
    contains: Box<dyn Fn(&T) -> bool>,
    text: String,
}

impl<T: Value + PartialOrd + 'static> Bounds<T> {
    /// From the one to the other, both included.
    pub(crate) fn new(range: RangeInclusive<T>) -> Self {
        let text = format!(" from {} to {}", range.start().show(), range.end().show());
        Self { contains: Box::new(move |value| range.contains(value)), text }
    }
}

/// What a key with these bounds takes.
pub(crate) fn expected<T: Value>(bounds: Option<&Bounds<T>>) -> String {
    format!("{}{}", T::expected(), bounds.map_or("", |bounds| &bounds.text))
}

/// Merged values on their way to their sections.
pub(crate) struct Reader {
    values: BTreeMap<String, (Raw, Origin)>,
    /// Where each value that is not a default came from.
    pub(crate) origins: BTreeMap<String, Origin>,
    /// What was wrong.
    pub(crate) problems: Vec<Problem>,
}

impl Reader {
    /// Reads from these.
    pub(crate) fn new(values: BTreeMap<String, (Raw, Origin)>, problems: Vec<Problem>) -> Self {
        Self { values, origins: BTreeMap::new(), problems }
    }

    /// The value of a key, or its default.
    pub(crate) fn take<T: Value>(&mut self, section: &str, name: &str, default: T, bounds: Option<&Bounds<T>>) -> T {
        let key = format!("{section}.{name}");
        let Some((raw, origin)) = self.values.remove(&key) else { return default };
        self.origins.insert(key.clone(), origin.clone());
        match T::read(&raw) {
            Some(value) if bounds.is_none_or(|bounds| (bounds.contains)(&value)) => value,
            _ => {
                let found = if T::SECRET { "a value that is not shown".to_owned() } else { raw.show() };
                self.problems.push(Problem::value(&key, &origin, found, expected(bounds)));
                default
            }
        }
    }
}

impl From<Secret> for Raw {
    fn from(secret: Secret) -> Self {
        Self::String(secret.expose().to_owned())
    }
}

/// Declares a section; see the [module](self).
macro_rules! section {
    (@bounds $type:ty) => { None::<$crate::config::schema::Bounds<$type>> };
    (@bounds $type:ty, $range:expr) => { Some($crate::config::schema::Bounds::<$type>::new($range)) };
    (@reload live) => { $crate::config::schema::Reload::Live };
    (@reload restart) => { $crate::config::schema::Reload::Restart };
    (@live live, $old:expr, $new:expr) => { $new };
    (@live restart, $old:expr, $new:expr) => {{
        let _ = $new;
        $old
    }};
    (
        $(#[doc = $doc:literal])+
        $name:ident as $key:literal {
            $(
                $(#[doc = $field_doc:literal])+
                $reload:ident $field:ident: $type:ty = $default:expr $(, $range:expr)?;
            )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) struct $name {
            $($(#[doc = $field_doc])+ pub(crate) $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $crate::config::schema::Section for $name {
            const KEY: &'static str = $key;
            const DOC: &'static str = concat!($($doc, "\n"),+);

            fn fields() -> Vec<$crate::config::schema::Field> {
                let default = Self::default();
                vec![$($crate::config::schema::Field {
                    section: $key,
                    name: stringify!($field),
                    doc: concat!($($field_doc, "\n"),+),
                    default: $crate::config::value::Value::show(&default.$field),
                    expected: $crate::config::schema::expected(
                        $crate::config::schema::section!(@bounds $type $(, $range)?).as_ref(),
                    ),
                    reload: $crate::config::schema::section!(@reload $reload),
                    secret: <$type as $crate::config::value::Value>::SECRET,
                },)+]
            }

            fn read(reader: &mut $crate::config::schema::Reader) -> Self {
                let default = Self::default();
                Self {
                    $($field: reader.take(
                        $key,
                        stringify!($field),
                        default.$field,
                        $crate::config::schema::section!(@bounds $type $(, $range)?).as_ref(),
                    ),)+
                }
            }

            fn shown(&self) -> Vec<(&'static str, String)> {
                vec![$((stringify!($field), $crate::config::value::Value::show(&self.$field)),)+]
            }

            fn changes(&self, new: &Self) -> Vec<$crate::config::schema::Change> {
                let mut changes = Vec::new();
                $(if self.$field != new.$field {
                    changes.push($crate::config::schema::Change {
                        key: concat!($key, ".", stringify!($field)).to_owned(),
                        reload: $crate::config::schema::section!(@reload $reload),
                    });
                })+
                changes
            }

            fn with_live(&self, new: &Self) -> Self {
                Self { $($field: $crate::config::schema::section!(@live $reload, &self.$field, &new.$field).clone(),)+ }
            }
        }
    };
}
pub(crate) use section;
