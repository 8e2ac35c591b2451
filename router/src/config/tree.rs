//! The configuration before it has types: a TOML tree of the file and the environment, read section by section so that
//! every problem is found in one run, each with the key it belongs to.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

use super::{KEYS, Problem};

/// Environment variables with this prefix are configuration.
pub(super) const PREFIX: &str = "BACKSCROLL_";

/// Variables with the prefix that are not keys of the configuration: the `--config` option, and what the test servers
/// in `.ci/` tell the tests.
const NOT_KEYS: [&str; 2] = ["BACKSCROLL_CONFIG", "BACKSCROLL_TEST_"];

/// More in a debug build, where they have a meaning.
const FAILPOINTS: &[&str] = if cfg!(debug_assertions) {
    &[
        crate::failpoint::VARIABLE,
        crate::failpoint::HOLD,
        crate::failpoint::LOSE,
        crate::failpoint::PANIC,
        crate::failpoint::HANG,
        crate::failpoint::LONGEST_STOP,
    ]
} else {
    &[]
};

/// Sections whose values are never repeated in a message: there are secrets and passwords in them.
const SECRET_SECTIONS: [&str; 5] = ["auth", "directory", "shards", "object_store", "redis"];

/// The values given, and which of them an environment variable gave.
#[derive(Debug, Default)]
pub(super) struct Tree {
    values: Table,
    overrides: Overrides,
    /// Variables with the prefix that are no settings.
    ignored: Vec<String>,
}

/// Which keys the environment gave.
#[derive(Clone, Debug, Default)]
pub(super) struct Overrides(BTreeMap<String, Override>);

impl Overrides {
    /// The variables that gave the value at `key`, or a part of it.
    pub(super) fn source(&self, key: &str) -> Vec<String> {
        let related = |path: &str| path == key || is_below(path, key) || is_below(key, path);
        let given = self.0.iter().filter(|(path, _)| related(path));
        given.map(|(_, given)| given.variable.clone()).collect()
    }
}

/// A value that an environment variable gave.
#[derive(Clone, Debug)]
struct Override {
    variable: String,
    /// As it stands in the environment; a value that reads as TOML may be meant as text (`"true"` as a password).
    text: String,
}

impl Tree {
    /// Reads the text of a configuration file.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        match toml::from_str(text) {
            Ok(values) => Ok(Self {
                values,
                ..Self::default()
            }),
            // Not the error's own text: it quotes the line, and there may be a password in it.
            Err(error) => {
                let line = error.span().map_or(1, |span| {
                    1 + text[..span.start.min(text.len())].matches('\n').count()
                });
                Err(Problem::new(
                    format!("line {line}"),
                    error.message().replace('\n', "; "),
                ))
            }
        }
    }

    /// Puts the variables that are configuration in the place of the file's values.
    pub(super) fn overlay(
        &mut self,
        environment: impl IntoIterator<Item = (String, String)>,
        problems: &mut Vec<Problem>,
    ) {
        let mut variables: Vec<_> = environment
            .into_iter()
            .filter(|(name, _)| is_ours(name))
            .collect();
        variables.sort(); // `SHARDS` before `SHARDS__0__PRIMARY`
        for (variable, text) in variables {
            if !is_key(&variable[PREFIX.len()..]) {
                self.ignored.push(variable);
                continue;
            }
            let path: Vec<String> = variable[PREFIX.len()..]
                .split("__")
                .map(str::to_ascii_lowercase)
                .collect();
            match place(&mut self.values, &path, toml_value(&text)) {
                Ok(()) => {
                    self.overrides
                        .0
                        .insert(dotted(&path), Override { variable, text });
                }
                Err(what) => problems.push(Problem::new(variable, what)),
            }
        }
    }

    /// Which keys the environment gave.
    pub(super) fn overrides(&self) -> Overrides {
        self.overrides.clone()
    }

    /// The variables with the prefix that are no settings.
    pub(super) fn ignored(&self) -> Vec<String> {
        self.ignored.clone()
    }

    /// Whether the top-level `key` has a value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Whether `key` of a section has a value.
    pub(super) fn has_in(&self, section: &str, key: &str) -> bool {
        let section = self.values.get(section).and_then(Value::as_table);
        section.is_some_and(|section| section.contains_key(key))
    }

    /// Gives a default that depends on other keys, unless there is a value. A section that is not a table stays as it is.
    pub(super) fn set_default(&mut self, section: &str, key: &str, default: Value) {
        let section = self
            .values
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        if let Some(table) = section.as_table_mut() {
            table.entry(key).or_insert(default);
        }
    }

    /// Takes a top-level key out of the tree and reads it as a `T`. Values that do not fit are reported and left at their
    /// defaults, so that one call finds every problem of the section.
    pub(super) fn take<T: DeserializeOwned + Default>(
        &mut self,
        section: &str,
        problems: &mut Vec<Problem>,
    ) -> T {
        let Some(value) = self.values.remove(section) else {
            return T::default();
        };
        Reader {
            section,
            overrides: &self.overrides,
            value,
            positions: BTreeMap::new(),
            removed: Vec::new(),
        }
        .read(problems)
    }

    /// Reports every key that is left as unknown.
    pub(super) fn finish(self, known: &[&str], problems: &mut Vec<Problem>) {
        for key in self.values.keys() {
            let what = format!("unknown key; the sections are {}", known.join(", "));
            problems.push(Problem::new(key.clone(), what).given_by(self.overrides.source(key)));
        }
    }
}

/// Reads one section again and again, taking out what does not fit, until the rest does.
struct Reader<'a> {
    section: &'a str,
    overrides: &'a Overrides,
    value: Value,
    /// For each list that lost elements: where the remaining ones stood in the input.
    positions: BTreeMap<String, Vec<usize>>,
    /// The keys taken out, to know a "missing" one from one that was reported already.
    removed: Vec<String>,
}

impl Reader<'_> {
    fn read<T: DeserializeOwned + Default>(mut self, problems: &mut Vec<Problem>) -> T {
        loop {
            let error = match serde_path_to_error::deserialize::<_, T>(self.value.clone()) {
                Ok(read) => return read,
                Err(error) => error,
            };
            let path: Vec<Segment> = error.path().iter().cloned().collect();
            let message = error.into_inner().message().to_owned();
            if !self.mend(&path, &message, problems) {
                return T::default();
            }
        }
    }

    /// Reports what is wrong at `path` and takes it out; `false` when nothing would be left.
    fn mend(&mut self, path: &[Segment], message: &str, problems: &mut Vec<Problem>) -> bool {
        let key = self.key(path);
        if self.read_as_text(path, &key) {
            return true;
        }
        let reported_before = message.starts_with("missing field")
            && self.removed.iter().any(|gone| gone.starts_with(&key));
        if !reported_before {
            // serde names the type in the code; the reader of a configuration knows tables.
            let message = message
                .split_once("expected struct ")
                .map_or(message.to_owned(), |(found, _)| {
                    format!("{found}expected a table")
                });
            let message = if SECRET_SECTIONS.contains(&self.section) {
                without_value(&message)
            } else {
                message
            };
            problems.push(Problem::new(key.clone(), message).given_by(self.overrides.source(&key)));
        }
        self.removed.push(key);
        self.remove(path)
    }

    /// Whether the value came from the environment and is now tried as plain text instead of TOML.
    fn read_as_text(&mut self, path: &[Segment], key: &str) -> bool {
        let Some(given) = self.overrides.0.get(key) else {
            return false;
        };
        let Some(value) = descend(&mut self.value, path) else {
            return false;
        };
        if value.is_str() || value.is_array() || value.is_table() {
            return false;
        }
        *value = Value::String(given.text.clone());
        true
    }

    /// The dotted key of `path`, with list positions as in the input.
    fn key(&self, path: &[Segment]) -> String {
        let mut key = self.section.to_owned();
        for segment in path {
            match segment {
                Segment::Seq { index } => {
                    let position = self
                        .positions
                        .get(&key)
                        .and_then(|kept| kept.get(*index))
                        .unwrap_or(index);
                    key = format!("{key}.{position}");
                }
                segment => key = format!("{key}.{segment}"),
            }
        }
        key
    }

    fn remove(&mut self, path: &[Segment]) -> bool {
        let Some((last, parents)) = path.split_last() else {
            return false;
        };
        let list = self.key(parents);
        match (descend(&mut self.value, parents), last) {
            (Some(Value::Table(table)), Segment::Map { key }) => table.remove(key).is_some(),
            (Some(Value::Array(array)), Segment::Seq { index }) if *index < array.len() => {
                let kept = self
                    .positions
                    .entry(list)
                    .or_insert_with(|| (0..array.len()).collect());
                kept.remove(*index);
                array.remove(*index);
                true
            }
            _ => false,
        }
    }
}

fn descend<'a>(value: &'a mut Value, path: &[Segment]) -> Option<&'a mut Value> {
    path.iter()
        .try_fold(value, |value, segment| match (value, segment) {
            (Value::Table(table), Segment::Map { key }) => table.get_mut(key),
            (Value::Array(array), Segment::Seq { index }) => array.get_mut(*index),
            _ => None,
        })
}

/// serde's `invalid type: string "x", expected y` without the `"x"`.
fn without_value(message: &str) -> String {
    match message
        .strip_prefix("invalid ")
        .and_then(|rest| rest.rsplit_once(", expected "))
    {
        Some((_, expected)) => format!("invalid value (not shown), expected {expected}"),
        None => message.to_owned(),
    }
}

/// Whether the rest of a variable's name is that of a key, known or not.
fn is_key(name: &str) -> bool {
    name.contains("__") || KEYS.contains(&&*name.to_ascii_lowercase())
}

/// Whether a variable may be a setting.
fn is_ours(variable: &str) -> bool {
    variable.starts_with(PREFIX)
        && !FAILPOINTS.contains(&variable)
        && !NOT_KEYS.iter().any(|other| {
            variable == *other || (other.ends_with('_') && variable.starts_with(other))
        })
}

fn dotted(path: &[String]) -> String {
    path.join(".")
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// The value that `text` is in TOML, or `text` itself.
fn toml_value(text: &str) -> Value {
    let one_value = |mut table: Table| (table.len() == 1).then(|| table.remove("value")).flatten();
    let parsed = toml::from_str(&format!("value = {text}"))
        .ok()
        .and_then(one_value);
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Puts `value` at `path`, making tables on the way. A number names an element of a list that is there, or the next one.
fn place(table: &mut Table, path: &[String], value: Value) -> Result<(), String> {
    let Some((first, rest)) = path.split_first().filter(|(first, _)| !first.is_empty()) else {
        return Err("names no key".into());
    };
    if rest.is_empty() {
        table.insert(first.clone(), value);
        return Ok(());
    }
    place_below(
        table.entry(first).or_insert_with(|| empty_for(&rest[0])),
        rest,
        value,
    )
}

fn place_below(target: &mut Value, path: &[String], value: Value) -> Result<(), String> {
    match target {
        Value::Table(table) => place(table, path, value),
        Value::Array(array) => {
            let next = array.len();
            let index: usize =
                path[0]
                    .parse()
                    .ok()
                    .filter(|index| *index <= next)
                    .ok_or(format!(
                        "`{}` should be a position in a list of {next}: 0 to {next}",
                        path[0]
                    ))?;
            if index == next {
                array.push(
                    path.get(1)
                        .map_or(Value::Boolean(false), |key| empty_for(key)),
                );
            }
            match &path[1..] {
                [] => array[index] = value,
                rest => return place_below(&mut array[index], rest, value),
            }
            Ok(())
        }
        _ => Err(format!(
            "`{}` is below a key that has a plain value",
            path[0]
        )),
    }
}

fn empty_for(key: &str) -> Value {
    if key.bytes().all(|b| b.is_ascii_digit()) {
        Value::Array(Vec::new())
    } else {
        Value::Table(Table::new())
    }
}
