//! Reads one TOML table field by field and goes on after every problem.
//!
//! Not serde: its derive stops at the first problem and gives an unknown key no place, and an operator who
//! has made five mistakes wants to see five. The `toml` crate's own parse tree (`DeTable`) has the spans of
//! keys and values.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Problem, Problems};
use super::near::nearest;

/// What stands under a key.
#[derive(Clone, Debug)]
pub(super) enum Field<T> {
    /// The key is not there.
    Absent,
    /// Something is there, and a problem has been noted: later checks neither use it nor complain that it is
    /// missing.
    Unreadable,
    /// A value of the right TOML type, not checked any further.
    Value(Spanned<T>),
}

impl<T> Field<T> {
    pub(super) fn value(&self) -> Option<&Spanned<T>> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Unreadable => None,
        }
    }
}

/// A table: where it stands, and what it is called in messages.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// As an operator writes it: `[[service]]`.
    pub(super) title: &'static str,
    /// Its header.
    pub(super) span: Range<usize>,
}

/// A table being read. Opening it reports its unknown keys.
pub(super) struct Fields<'a, 'i> {
    pub(super) place: Place,
    table: &'a DeTable<'i>,
    /// Known keys that an unknown key was taken for: not missing, only misspelt.
    misspelt: Vec<&'static str>,
}

impl<'a, 'i> Fields<'a, 'i> {
    pub(super) fn open(
        place: Place,
        table: &'a DeTable<'i>,
        keys: &[&'static str],
        problems: &mut Problems,
    ) -> Self {
        let mut misspelt = Vec::new();
        for (key, _) in table {
            let written = key.get_ref().as_ref();
            if keys.contains(&written) {
                continue;
            }
            let meant = nearest(written, keys.iter().copied());
            misspelt.extend(meant.filter(|known| !table.contains_key(*known)));
            problems.push(unknown_key(&place, key, meant, keys));
        }
        Self { place, table, misspelt }
    }

    pub(super) fn text(&self, key: &str, problems: &mut Problems) -> Field<String> {
        self.read(key, "a string in quotes", problems, |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn boolean(&self, key: &str, problems: &mut Problems) -> Field<bool> {
        self.read(key, "true or false", problems, DeValue::as_bool)
    }

    pub(super) fn integer(&self, key: &str, problems: &mut Problems) -> Field<i128> {
        self.read(key, "a whole number", problems, integer)
    }

    pub(super) fn texts(&self, key: &str, problems: &mut Problems) -> Field<Vec<Spanned<String>>> {
        self.list(key, "a string in quotes", problems, |value| value.as_str().map(str::to_owned))
    }

    /// A list of strings; one string by itself is a list of one.
    pub(super) fn one_or_more_texts(
        &self,
        key: &str,
        problems: &mut Problems,
    ) -> Field<Vec<Spanned<String>>> {
        if self.is_list(key) {
            return self.texts(key, problems);
        }
        match self.text(key, problems) {
            Field::Absent => Field::Absent,
            Field::Unreadable => Field::Unreadable,
            Field::Value(text) => Field::Value(Spanned::new(text.span(), vec![text])),
        }
    }

    /// A list of whole numbers; one by itself is a list of one.
    pub(super) fn one_or_more_integers(
        &self,
        key: &str,
        problems: &mut Problems,
    ) -> Field<Vec<Spanned<i128>>> {
        if self.is_list(key) {
            return self.integers(key, problems);
        }
        match self.integer(key, problems) {
            Field::Absent => Field::Absent,
            Field::Unreadable => Field::Unreadable,
            Field::Value(number) => Field::Value(Spanned::new(number.span(), vec![number])),
        }
    }

    pub(super) fn integers(&self, key: &str, problems: &mut Problems) -> Field<Vec<Spanned<i128>>> {
        self.list(key, "a whole number", problems, integer)
    }

    /// Whether the value under `key` is a list.
    pub(super) fn is_list(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| matches!(value.get_ref(), DeValue::Array(_)))
    }

    /// Whether the value under `key` is a string.
    pub(super) fn is_text(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| matches!(value.get_ref(), DeValue::String(_)))
    }

    /// The table `[title]` under `key`, where its being there says something by itself.
    pub(super) fn optional_table<T>(
        &self,
        key: &str,
        title: &'static str,
        problems: &mut Problems,
        read: impl FnOnce(Place, &DeTable<'i>, &mut Problems) -> T,
    ) -> Field<T> {
        let Some(value) = self.table.get(key) else { return self.without(key) };
        match value.get_ref() {
            DeValue::Table(table) => {
                let read = read(Place { title, span: value.span() }, table, problems);
                Field::Value(Spanned::new(value.span(), read))
            }
            other => {
                problems
                    .push(wrong_type(key, &format!("a table, written `{title}`"), other).at(value.span()));
                Field::Unreadable
            }
        }
    }

    /// The table `[title]` under `key`; an absent one is as an empty one.
    pub(super) fn table<T>(
        &self,
        key: &str,
        title: &'static str,
        problems: &mut Problems,
        read: impl FnOnce(Place, &DeTable<'i>, &mut Problems) -> T,
    ) -> T {
        let empty = DeTable::new();
        let (span, table) = match self.table.get(key).map(|value| (value.span(), value.get_ref())) {
            Some((span, DeValue::Table(table))) => (span, table),
            Some((span, other)) => {
                problems.push(wrong_type(key, &format!("a table, written `{title}`"), other).at(span));
                (0..0, &empty)
            }
            None => (0..0, &empty),
        };
        read(Place { title, span }, table, problems)
    }

    /// The tables `[[title]]` under `key`, each read with `read`.
    pub(super) fn tables<T>(
        &self,
        key: &str,
        title: &'static str,
        problems: &mut Problems,
        mut read: impl FnMut(Place, &DeTable<'i>, &mut Problems) -> T,
    ) -> Field<Vec<T>> {
        let Some(value) = self.table.get(key) else { return self.without(key) };
        let DeValue::Array(items) = value.get_ref() else {
            let expected = format!("a list of tables, each written `{title}`");
            problems.push(wrong_type(key, &expected, value.get_ref()).at(value.span()));
            return Field::Unreadable;
        };
        let mut tables = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => {
                    tables.push(read(Place { title, span: item.span() }, table, problems))
                }
                other => problems
                    .push(wrong_type(key, &format!("a table, written `{title}`"), other).at(item.span())),
            }
        }
        if tables.len() == items.len() {
            Field::Value(Spanned::new(value.span(), tables))
        } else {
            Field::Unreadable
        }
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &str,
        problems: &mut Problems,
        convert: impl FnOnce(&DeValue<'i>) -> Option<T>,
    ) -> Field<T> {
        let Some(value) = self.table.get(key) else { return self.without(key) };
        match convert(value.get_ref()) {
            Some(converted) => Field::Value(Spanned::new(value.span(), converted)),
            None => {
                problems.push(wrong_type(key, expected, value.get_ref()).at(value.span()));
                Field::Unreadable
            }
        }
    }

    fn list<T>(
        &self,
        key: &str,
        expected: &str,
        problems: &mut Problems,
        convert: impl Fn(&DeValue<'i>) -> Option<T>,
    ) -> Field<Vec<Spanned<T>>> {
        let Some(value) = self.table.get(key) else { return self.without(key) };
        let DeValue::Array(items) = value.get_ref() else {
            let expected = format!("a list in brackets, each item {expected}");
            problems.push(wrong_type(key, &expected, value.get_ref()).at(value.span()));
            return Field::Unreadable;
        };
        let mut list = Vec::new();
        for item in items.iter() {
            match convert(item.get_ref()) {
                Some(converted) => list.push(Spanned::new(item.span(), converted)),
                None => {
                    let what = format!("an item of `{key}`");
                    problems.push(wrong_type_of(&what, expected, item.get_ref()).at(item.span()));
                }
            }
        }
        if list.len() == items.len() {
            Field::Value(Spanned::new(value.span(), list))
        } else {
            Field::Unreadable
        }
    }

    fn without<T>(&self, key: &str) -> Field<T> {
        if self.misspelt.contains(&key) { Field::Unreadable } else { Field::Absent }
    }
}

fn integer(value: &DeValue<'_>) -> Option<i128> {
    let integer = value.as_integer()?;
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn unknown_key(place: &Place, key: &Spanned<impl AsRef<str>>, meant: Option<&str>, keys: &[&str]) -> Problem {
    let allowed: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    let problem =
        Problem::new(format!("{} has no key `{}`", place.title, key.get_ref().as_ref().escape_debug()))
            .at(key.span())
            .help(format!("allowed in {}: {}", place.title, allowed.join(", ")));
    match meant {
        Some(meant) => problem.label(format!("did you mean `{meant}`?")),
        None => problem,
    }
}

fn wrong_type(key: &str, expected: &str, found: &DeValue<'_>) -> Problem {
    wrong_type_of(&format!("`{key}`"), expected, found)
}

fn wrong_type_of(what: &str, expected: &str, found: &DeValue<'_>) -> Problem {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(integer) if i128::from_str_radix(integer.as_str(), integer.radix()).is_err() => {
            "a number that no computer has"
        }
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean (true or false)",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Problem::new(format!("{what} is {found}")).label(format!("expected {expected}"))
}
