//! Single changes: a service or a backend that comes, goes, or is set otherwise.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::rules::{Document, EditError, Values};

/// A change of one service or one backend. Keys and values are those of the rules file; where something is set, `null` takes a
/// key out, and keys that are not named stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// A new service, behind the others.
    AddService {
        /// All of it, `name` included.
        #[schema(value_type = Object)]
        service: Values,
    },
    /// Other settings for a service.
    SetService {
        /// Which.
        service: String,
        /// Its new settings.
        #[schema(value_type = Object)]
        set: Values,
    },
    /// A service leaves. What becomes of its open connections says its `on_remove`.
    RemoveService {
        /// Which.
        service: String,
    },
    /// A new backend, behind the others of its service.
    AddBackend {
        /// Whose.
        service: String,
        /// All of it, `address` included.
        #[schema(value_type = Object)]
        backend: Values,
    },
    /// Other settings for a backend.
    SetBackend {
        /// Whose.
        service: String,
        /// Which: address and port, or the address alone where that is clear.
        backend: String,
        /// Its new settings.
        #[schema(value_type = Object)]
        set: Values,
    },
    /// A backend leaves. What becomes of its open connections says the service's `on_remove`.
    RemoveBackend {
        /// Whose.
        service: String,
        /// Which.
        backend: String,
    },
}

impl Edit {
    /// Makes the change.
    ///
    /// # Errors
    /// When what it names is not there, or is there already. Then the document is as it was.
    pub fn make(&self, document: &mut Document) -> Result<(), EditError> {
        match self {
            Self::AddService { service } => document.add_service(service),
            Self::SetService { service, set } => document.set_service(service, set),
            Self::RemoveService { service } => document.remove_service(service),
            Self::AddBackend { service, backend } => document.add_backend(service, backend),
            Self::SetBackend { service, backend, set } => document.set_backend(service, backend, set),
            Self::RemoveBackend { service, backend } => document.remove_backend(service, backend),
        }
    }
}

/// As in the list of revisions.
impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |values: &Values, key: &str| {
            values.get(key).and_then(Value::as_str).unwrap_or("without a name").to_owned()
        };
        match self {
            Self::AddService { service } => write!(f, "+ service {}", named(service, "name")),
            Self::SetService { service, set } => write!(f, "~ service {service}: {}", Settings(set)),
            Self::RemoveService { service } => write!(f, "- service {service}"),
            Self::AddBackend { service, backend } => {
                write!(f, "+ service {service}: backend {}", named(backend, "address"))
            }
            Self::SetBackend { service, backend, set } => {
                write!(f, "~ service {service}: backend {backend} {}", Settings(set))
            }
            Self::RemoveBackend { service, backend } => write!(f, "- service {service}: backend {backend}"),
        }
    }
}

/// `weight=5, state=drain`
struct Settings<'a>(&'a Values);

impl fmt::Display for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (key, value)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            match value {
                Value::Null => write!(f, "{comma}{key} unset")?,
                Value::String(text) => write!(f, "{comma}{key}={text}")?,
                Value::Object(_) => write!(f, "{comma}{key}")?,
                value => write!(f, "{comma}{key}={value}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_json_and_a_line_of_text() {
        for (json, text) in [
            (r#"{"op":"remove_service","service":"web"}"#, "- service web"),
            (r#"{"op":"add_service","service":{"name":"web"}}"#, "+ service web"),
            (
                r#"{"op":"set_backend","service":"web","backend":"10.0.0.1","set":{"state":"drain","weight":null}}"#,
                "~ service web: backend 10.0.0.1 state=drain, weight unset",
            ),
        ] {
            let edit: Edit = serde_json::from_str(json).unwrap();
            assert_eq!(edit.to_string(), text);
            assert_eq!(serde_json::to_string(&edit).unwrap(), json);
        }
        let unknown = serde_json::from_str::<Edit>(r#"{"op":"remove_service","service":"web","force":true}"#);
        assert!(unknown.unwrap_err().to_string().contains("force"));
    }
}
