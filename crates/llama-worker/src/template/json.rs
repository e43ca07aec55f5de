//! The `tojson` filter as Hugging Face defines it: Python's `json.dumps(value, ensure_ascii=False)`, so separators have
//! a space and nothing is escaped for HTML (Jinja's own filter does that and breaks tool schemas).

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, ValueKind},
};

/// Deepest nesting that is written; a template could build any depth in a loop.
const DEPTH_MAX: usize = 64;
/// Widest indentation.
const INDENT_MAX: usize = 16;
/// Bytes of output for one unit of fuel: the engine charges its own filter alike.
const BYTES_PER_FUEL: usize = 4;

pub(super) fn tojson(state: &State<'_, '_>, value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    // Accepted for templates that spell out the default.
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    if indent.is_some_and(|indent| indent > INDENT_MAX) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: indent too wide"));
    }
    let mut writer = Writer { state, out: String::new(), indent, charged: 0 };
    writer.value(value, 0)?;
    writer.charge()?;
    Ok(Value::from(writer.out))
}

struct Writer<'a, 'template, 'env> {
    state: &'a State<'template, 'env>,
    out: String,
    indent: Option<usize>,
    charged: usize,
}

impl Writer<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: nested too deep"));
        }
        self.charge()?;
        match value.kind() {
            ValueKind::None => self.out += "null",
            ValueKind::Bool | ValueKind::Number => self.out += &value.to_string().to_lowercase(),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.container('[', ']', value, depth, |writer, item| writer.value(&item, depth + 1))?;
            }
            ValueKind::Map => self.container('{', '}', value, depth, |writer, key| {
                writer.string(&key.to_string());
                writer.out += ": ";
                writer.value(&value.get_item(&key)?, depth + 1)
            })?,
            _ => return Err(Error::new(ErrorKind::BadSerialization, "tojson: not a JSON value")),
        }
        Ok(())
    }

    fn container(
        &mut self,
        open: char,
        close: char,
        value: &Value,
        depth: usize,
        mut item: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let mut empty = true;
        for element in value.try_iter()? {
            if !empty {
                self.out.push(',');
            }
            match self.indent {
                Some(_) => self.line(depth + 1),
                None if !empty => self.out.push(' '),
                None => {}
            }
            empty = false;
            item(self, element)?;
        }
        if !empty && self.indent.is_some() {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', depth * self.indent.unwrap_or(0)));
    }

    fn string(&mut self, text: &str) {
        self.out += &serde_json::Value::from(text).to_string();
    }

    /// Pays for what was written since the last time, so that a huge value ends early.
    fn charge(&mut self) -> Result<(), Error> {
        let new = self.out.len() - self.charged;
        self.charged = self.out.len();
        self.state.consume_fuel((new / BYTES_PER_FUEL) as u64)
    }
}
