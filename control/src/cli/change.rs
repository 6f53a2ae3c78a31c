//! What the commands that change rules have in common: how a change is meant, and how its outcome is told.

use std::fmt::Write;

use anyhow::Context;
use clap::Args;
use control::api::CHANGES_PATH;
use control::api::changes::Transaction;
use control::api::client::Question;
use control::changes::{Edit, Outcome};
use control::rules::Values;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::Value;

use super::target::Target;

/// How a change is meant
#[derive(Args, Clone, Debug)]
pub(super) struct Meant {
    #[command(flatten)]
    pub(super) target: Target,
    /// Only tell what would change
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Only if this revision is in force, as `crossdock revisions` numbers them; else exit code 4
    #[arg(long, value_name = "N")]
    pub(super) revision: Option<u64>,
}

impl Meant {
    /// Asks for `edits`, and tells what has become of them.
    pub(super) fn edit(&self, edits: Vec<Edit>) -> anyhow::Result<()> {
        let body = serde_json::to_vec(&Transaction { edits }).context("the change")?;
        let body = Some(("application/json", Bytes::from(body)));
        self.ask(Question { body, ..Question::new(Method::POST, CHANGES_PATH) })
    }

    /// Asks for a change, and tells what has become of it.
    pub(super) fn ask(&self, mut question: Question) -> anyhow::Result<()> {
        if self.dry_run {
            let separator = if question.path.contains('?') { '&' } else { '?' };
            let _ = write!(question.path, "{separator}dry_run=true");
        }
        question.revision = self.revision;
        let body = self.target.ask(question)?;
        if self.target.json {
            return super::print(format_args!("{}\n", String::from_utf8_lossy(&body)));
        }
        let outcome: Outcome =
            serde_json::from_slice(&body).context("the answer is no outcome of a change")?;
        super::print(told(&outcome))
    }
}

fn told(outcome: &Outcome) -> String {
    let Outcome { revision, applied, changes } = outcome;
    let mut text: String = changes.iter().map(|line| format!("{line}\n")).collect();
    let _ = match (applied, changes.is_empty()) {
        (true, true) => writeln!(text, "nothing has changed; revision {revision} is in force"),
        (true, false) => writeln!(text, "in force as revision {revision}"),
        (false, true) => writeln!(text, "nothing would change"),
        (false, false) => writeln!(text, "nothing of it is in force: it was a dry run"),
    };
    text
}

/// A setting as it is typed: `KEY=VALUE`. The value is TOML where it can be read as such, else text; `KEY=` takes a key out, and
/// dots lead into tables (`timeouts.established=15m`).
#[derive(Clone, Debug)]
pub(super) struct Setting {
    keys: Vec<String>,
    value: Value,
}

/// For clap.
pub(super) fn setting(text: &str) -> Result<Setting, String> {
    let (keys, value) = text.split_once('=').ok_or("write KEY=VALUE, or KEY= to take the key out")?;
    let keys: Vec<_> = keys.split('.').map(|key| key.trim().to_owned()).collect();
    if keys.iter().any(String::is_empty) {
        return Err("write KEY=VALUE, with a key of the rules file (docs/rules.md)".to_owned());
    }
    Ok(Setting { keys, value: value_of(value.trim()) })
}

fn value_of(text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    let read = |text: &str| toml::from_str::<toml::Table>(&format!("value = {text}")).ok();
    let value = read(text).and_then(|mut table| table.remove("value"));
    let json = value.filter(|value| !matches!(value, toml::Value::Datetime(_)));
    json.and_then(|value| serde_json::to_value(value).ok()).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Puts settings where they belong.
pub(super) fn values(settings: &[Setting]) -> Values {
    let mut values = Values::new();
    settings.iter().for_each(|setting| insert(&mut values, &setting.keys, &setting.value));
    values
}

fn insert(table: &mut Values, keys: &[String], value: &Value) {
    match keys {
        [] => {}
        [key] => {
            table.insert(key.clone(), value.clone());
        }
        [key, rest @ ..] => {
            let within = table.entry(key.clone()).or_insert(Value::Null);
            if !within.is_object() {
                *within = Value::Object(Values::new());
            }
            within.as_object_mut().into_iter().for_each(|within| insert(within, rest, value));
        }
    }
}

/// Takes in what was typed as an option.
pub(super) fn put(values: &mut Values, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        values.insert(key.to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_toml_or_text_and_dots_lead_into_tables() {
        let typed = [
            "weight=5",
            "timeouts.established=15m",
            "timeouts.close=\"5s\"",
            "fallback=false",
            "hash=",
            "from=[\"10.0.0.0/8\"]",
        ];
        let settings: Vec<_> = typed.iter().map(|text| setting(text).unwrap()).collect();
        assert_eq!(
            Value::Object(values(&settings)),
            json!({
                "weight": 5, "timeouts": { "established": "15m", "close": "5s" }, "fallback": false, "hash": null,
                "from": ["10.0.0.0/8"],
            })
        );
        assert!(setting("weight").is_err());
        assert!(setting("=5").is_err());
    }
}
