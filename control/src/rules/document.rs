//! The rules as they were typed, kept so that they can be changed a service at a time: what `crossdock rules` prints, comments
//! and all.
//!
//! A document is the text of everything but services, and a text for each service. Documents share those of services that were
//! not changed, so one costs a pointer a service: a change is made on a copy, and the ones before are kept to go back to.
//! Nothing is checked here but that it is TOML; [`Rules::parse`](super::Rules::parse) of [`Document::text`] says whether it is valid.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, Value};

use super::near::nearest;
use super::values::endpoint;

/// Values by key, as in the rules file; `null` takes a key out.
pub type Values = Map<String, Json>;

/// A rules file in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Everything but services.
    head: Arc<str>,
    /// In file order.
    services: Vec<Arc<ServiceText>>,
}

/// A `[[service]]` with all that belongs to it.
#[derive(Debug, PartialEq, Eq)]
struct ServiceText {
    /// Empty where `name` is missing or no string: then the document is not valid either.
    name: String,
    text: String,
}

/// Why a document cannot be changed so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditError {
    /// What is wrong.
    pub detail: String,
    /// What to do.
    pub help: Option<String>,
    /// What was named is not there.
    pub is_missing: bool,
}

impl EditError {
    fn new(detail: impl Into<String>, help: impl Into<String>) -> Self {
        Self { detail: detail.into(), help: Some(help.into()), is_missing: false }
    }

    fn missing<'a>(what: &str, name: &str, others: impl Iterator<Item = &'a str>) -> Self {
        let help = nearest(name, others).map(|near| format!("is {near:?} meant?"));
        Self { detail: format!("there is no {what} {name:?}"), help, is_missing: true }
    }
}

/// One service's text, as a table that can be changed.
struct OpenService {
    document: DocumentMut,
}

impl Document {
    /// Takes the text of a rules file apart.
    ///
    /// # Errors
    /// What is wrong with it as TOML.
    pub fn parse(text: &str) -> Result<Self, toml_edit::TomlError> {
        let mut document: DocumentMut = text.parse()?;
        let services = match document.remove("service") {
            Some(item) => item.into_array_of_tables().unwrap_or_default(),
            None => ArrayOfTables::new(),
        };
        let services = services.into_iter().map(|table| Arc::new(ServiceText::of(table))).collect();
        Ok(Self { head: document.to_string().into(), services })
    }

    /// The rules as a file.
    pub fn text(&self) -> String {
        let services: usize = self.services.iter().map(|service| service.text.len() + 1).sum();
        let mut text = String::with_capacity(self.head.len() + services);
        text.push_str(&self.head);
        for ServiceText { text: service, .. } in self.services.iter().map(AsRef::as_ref) {
            if !text.is_empty() && !text.ends_with("\n\n") && !service.starts_with('\n') {
                text.push('\n');
            }
            text.push_str(service);
        }
        text
    }

    /// The names of its services, in file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(|service| service.name.as_str())
    }

    /// The text of one service.
    pub fn service(&self, name: &str) -> Option<&str> {
        let service = self.services.iter().find(|service| service.name == name)?;
        Some(service.text.trim_start_matches('\n'))
    }

    /// Adds a service at the end.
    ///
    /// # Errors
    /// When it has no name, or one that there is already.
    pub fn add_service(&mut self, values: &Values) -> Result<(), EditError> {
        let mut table = Table::new();
        merge(&mut table, values)?;
        let service = ServiceText::of(table);
        if service.name.is_empty() {
            return Err(EditError::new("a service without a name", "give it one: `name`"));
        }
        if self.names().any(|name| name == service.name) {
            return Err(EditError::new(
                format!("there is a service {:?} already", service.name),
                "change that one, or give this one another name",
            ));
        }
        self.services.push(Arc::new(service));
        Ok(())
    }

    /// Changes settings of a service: keys that are not named stay as they are.
    ///
    /// # Errors
    /// When there is no such service, or a value that TOML does not have.
    pub fn set_service(&mut self, name: &str, values: &Values) -> Result<(), EditError> {
        let index = self.index_of(name)?;
        let mut service = self.open(index);
        merge(service.table()?, values)?;
        self.close(index, service)
    }

    /// Takes a service out.
    ///
    /// # Errors
    /// When there is no such service.
    pub fn remove_service(&mut self, name: &str) -> Result<(), EditError> {
        let index = self.index_of(name)?;
        self.services.remove(index);
        Ok(())
    }

    /// Adds a backend to a service, behind those it has.
    ///
    /// # Errors
    /// When there is no such service.
    pub fn add_backend(&mut self, name: &str, values: &Values) -> Result<(), EditError> {
        let index = self.index_of(name)?;
        let mut service = self.open(index);
        let mut backend = Table::new();
        merge(&mut backend, values)?;
        if let Some(address) = backend.get("address").and_then(Item::as_str)
            && service.find(name, address).is_ok()
        {
            return Err(EditError::new(
                format!("service {name:?} has the backend {address} already"),
                "change that one",
            ));
        }
        service.backends()?.push(backend);
        self.close(index, service)
    }

    /// Changes settings of a backend.
    ///
    /// # Errors
    /// When there is no such service, or no such backend of it.
    pub fn set_backend(&mut self, name: &str, address: &str, values: &Values) -> Result<(), EditError> {
        let index = self.index_of(name)?;
        let mut service = self.open(index);
        let at = service.find(name, address)?;
        if let Some(backend) = service.backends()?.get_mut(at) {
            merge(backend, values)?;
        }
        self.close(index, service)
    }

    /// Takes a backend out of a service.
    ///
    /// # Errors
    /// When there is no such service, or no such backend of it.
    pub fn remove_backend(&mut self, name: &str, address: &str) -> Result<(), EditError> {
        let index = self.index_of(name)?;
        let mut service = self.open(index);
        let at = service.find(name, address)?;
        service.backends()?.remove(at);
        self.close(index, service)
    }

    fn index_of(&self, name: &str) -> Result<usize, EditError> {
        let index = self.services.iter().position(|service| service.name == name);
        index.ok_or_else(|| EditError::missing("service", name, self.names()))
    }

    fn open(&self, index: usize) -> OpenService {
        // What was written by `close` can be read.
        OpenService { document: self.services[index].text.parse().unwrap_or_default() }
    }

    fn close(&mut self, index: usize, service: OpenService) -> Result<(), EditError> {
        let text = service.document.to_string();
        let mut service = service;
        let name = service.table()?.get("name").and_then(Item::as_str).unwrap_or_default().to_owned();
        let others = self.services.iter().enumerate().filter(|(other, _)| *other != index);
        if others.into_iter().any(|(_, other)| other.name == name) {
            return Err(EditError::new(
                format!("there is a service {name:?} already"),
                "give it another name",
            ));
        }
        self.services[index] = Arc::new(ServiceText { name, text });
        Ok(())
    }
}

impl ServiceText {
    fn of(table: Table) -> Self {
        let name = table.get("name").and_then(Item::as_str).unwrap_or_default().to_owned();
        let mut services = ArrayOfTables::new();
        services.push(table);
        let mut document = DocumentMut::new();
        document.insert("service", Item::ArrayOfTables(services));
        Self { name, text: document.to_string() }
    }
}

impl OpenService {
    fn table(&mut self) -> Result<&mut Table, EditError> {
        let services = self.document.get_mut("service").and_then(Item::as_array_of_tables_mut);
        services
            .and_then(|services| services.get_mut(0))
            .ok_or_else(|| EditError::new("the service is no table", "apply a whole file"))
    }

    /// Its backends, in tables of their own whichever way they were written.
    fn backends(&mut self) -> Result<&mut ArrayOfTables, EditError> {
        let table = self.table()?;
        let is_tables = table.get("backend").is_some_and(Item::is_array_of_tables);
        if !is_tables {
            let tables = match table.remove("backend") {
                Some(item) => item.into_array_of_tables().map_err(|_| {
                    EditError::new("`backend` of the service is no list of tables", "apply a whole file")
                })?,
                None => ArrayOfTables::new(),
            };
            table.insert("backend", Item::ArrayOfTables(tables));
        }
        let backends = table.get_mut("backend").and_then(Item::as_array_of_tables_mut);
        backends.ok_or_else(|| EditError::new("`backend` of the service is no list of tables", ""))
    }

    /// The place of the backend that `written` means: the one written so, or the only one with that address where one of
    /// both leaves the l4_port out.
    fn find(&mut self, service: &str, written: &str) -> Result<usize, EditError> {
        let wanted = endpoint(written).map_err(|_| {
            EditError::new(
                format!("{written:?} is no backend's address"),
                "write 10.0.0.11, or 10.0.0.11:8080",
            )
        })?;
        let addresses: Vec<String> = self
            .backends()?
            .iter()
            .map(|backend| backend.get("address").and_then(Item::as_str).unwrap_or_default().to_owned())
            .collect();
        let found: Vec<Option<(IpAddr, Option<u16>)>> =
            addresses.iter().map(|address| endpoint(address).ok()).collect();
        if let Some(exactly) = found.iter().position(|backend| *backend == Some(wanted)) {
            return Ok(exactly);
        }
        let is_near = |backend: &Option<(IpAddr, Option<u16>)>| {
            backend.is_some_and(|(address, l4_port)| {
                address == wanted.0 && (l4_port.is_none() || wanted.1.is_none())
            })
        };
        let mut near = found.iter().enumerate().filter(|(_, backend)| is_near(backend));
        match (near.next(), near.next()) {
            (Some((at, _)), None) => Ok(at),
            (Some(_), Some(_)) => Err(EditError::new(
                format!("service {service:?} has several backends with the address {}", wanted.0),
                "write the port too",
            )),
            (None, _) => {
                let mut missing =
                    EditError::missing("backend", written, addresses.iter().map(String::as_str));
                let _ = write!(missing.detail, " of service {service:?}");
                Err(missing)
            }
        }
    }
}

/// Writes `values` into `table`: `null` takes a key out, a table within is merged in turn, anything else takes the place of
/// what was there (RFC 7396, on TOML).
fn merge(table: &mut Table, values: &Values) -> Result<(), EditError> {
    for (key, value) in values {
        match value {
            Json::Null => {
                table.remove(key);
            }
            Json::Object(values) => {
                let mut within = match table.remove(key).map(Item::into_table) {
                    Some(Ok(within)) => within,
                    _ => Table::new(),
                };
                within.set_implicit(false);
                merge(&mut within, values)?;
                table.insert(key, Item::Table(within));
            }
            Json::Array(items) if !items.is_empty() && items.iter().all(Json::is_object) => {
                let mut tables = ArrayOfTables::new();
                for values in items.iter().filter_map(Json::as_object) {
                    let mut within = Table::new();
                    merge(&mut within, values)?;
                    tables.push(within);
                }
                table.insert(key, Item::ArrayOfTables(tables));
            }
            value => {
                // The decor of a value holds the comment behind it, which stays.
                let new = toml_value(key, value)?;
                match table.get_mut(key).and_then(Item::as_value_mut) {
                    Some(old) => {
                        let decor = old.decor().clone();
                        *old = new;
                        *old.decor_mut() = decor;
                    }
                    None => {
                        table.insert(key, Item::Value(new));
                    }
                }
            }
        }
    }
    Ok(())
}

fn toml_value(key: &str, value: &Json) -> Result<Value, EditError> {
    let wrong = |what: &str| EditError::new(format!("`{key}`: {what}"), "see docs/rules.md for its kind");
    Ok(match value {
        Json::Bool(value) => (*value).into(),
        Json::String(text) => text.as_str().into(),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(fraction)) if !number.is_u64() => fraction.into(),
            _ => return Err(wrong("a number that TOML does not have")),
        },
        Json::Array(items) => {
            let values = items.iter().map(|item| toml_value(key, item)).collect::<Result<Vec<_>, _>>()?;
            values.into_iter().collect()
        }
        Json::Null | Json::Object(_) => return Err(wrong("a list holds neither `null` nor tables here")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RULES: &str = r#"# The director in the cellar.
[[port]]
name = "front"
device = "pcap:in.pcap,out.pcap"

[[neighbour]]
address = "10.0.0.11"
mac = "02:00:00:00:00:0b"
port = "front"

# What customers see.
[[service]]
name = "web"                 # asked for by sales
listen = "tcp 192.0.2.100:80"
mode = "dr"

  [[service.backend]]
  address = "10.0.0.11"
  weight = 5                 # the big one

  [[service.backend]]
  address = "10.0.0.12:80"

[[service]]
name = "dns"
listen = "udp 192.0.2.100:53"
mode = "dr"
backend = [{ address = "10.0.0.11" }]
"#;

    fn values(json: Json) -> Values {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn what_is_not_changed_is_printed_as_it_was_typed() {
        let document = Document::parse(RULES).unwrap();
        assert_eq!(document.names().collect::<Vec<_>>(), ["web", "dns"]);
        let text = document.text();
        for line in RULES.lines().filter(|line| !line.starts_with("backend")) {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        let again = Document::parse(&text).unwrap();
        assert_eq!(again.text(), text);
    }

    #[test]
    fn a_change_keeps_comments_and_the_other_services() {
        let before = Document::parse(RULES).unwrap();
        let mut after = before.clone();
        after.set_backend("web", "10.0.0.11", &values(json!({ "weight": 0, "state": "drain" }))).unwrap();
        let text = after.text();
        assert!(text.contains("weight = 0                 # the big one\n"), "{text}");
        assert!(text.contains("state = \"drain\""), "{text}");
        assert!(Arc::ptr_eq(&before.services[1], &after.services[1]));
        assert!(before.text().contains("weight = 5"));
        after.set_backend("web", "10.0.0.11:80", &values(json!({ "state": null }))).unwrap();
        assert!(!after.text().contains("state"), "{}", after.text());
    }

    #[test]
    fn backends_come_and_go_however_they_were_written() {
        let mut document = Document::parse(RULES).unwrap();
        document.add_backend("dns", &values(json!({ "address": "10.0.0.13", "weight": 2 }))).unwrap();
        document.remove_backend("dns", "10.0.0.11:53").unwrap();
        let dns = document.service("dns").unwrap();
        assert!(dns.contains("[[service.backend]]\naddress = \"10.0.0.13\"\nweight = 2"), "{dns}");
        assert!(!dns.contains("10.0.0.11"), "{dns}");
        let twice = document.add_backend("web", &values(json!({ "address": "10.0.0.12" }))).unwrap_err();
        assert!(twice.detail.contains("already"), "{twice:?}");
    }

    #[test]
    fn services_come_with_tables_and_go() {
        let mut document = Document::parse(RULES).unwrap();
        let service = json!({
            "name": "mail", "listen": "tcp 192.0.2.100:25", "mode": "dr",
            "timeouts": { "established": "15m" }, "backend": [{ "address": "10.0.0.12" }],
        });
        document.add_service(&values(service.clone())).unwrap();
        let mail = document.service("mail").unwrap();
        assert!(mail.contains("[service.timeouts]\nestablished = \"15m\""), "{mail}");
        assert!(mail.contains("[[service.backend]]\naddress = \"10.0.0.12\""), "{mail}");
        assert!(document.add_service(&values(service)).is_err());
        document
            .set_service("mail", &values(json!({ "timeouts": { "close": "5s" }, "scheduler": "rr" })))
            .unwrap();
        let mail = document.service("mail").unwrap();
        assert!(mail.contains("established = \"15m\"\nclose = \"5s\""), "{mail}");
        document.remove_service("web").unwrap();
        assert_eq!(document.names().collect::<Vec<_>>(), ["dns", "mail"]);
    }

    #[test]
    fn who_is_named_wrongly_is_told_the_near_name() {
        let mut document = Document::parse(RULES).unwrap();
        let error = document.remove_service("wbe").unwrap_err();
        assert_eq!((error.detail.as_str(), error.is_missing), ("there is no service \"wbe\"", true));
        assert_eq!(error.help.as_deref(), Some("is \"web\" meant?"));
        let error = document.remove_backend("web", "10.0.0.99").unwrap_err();
        assert!(error.is_missing && error.detail.ends_with("of service \"web\""), "{error:?}");
        assert!(document.remove_backend("web", "ten").is_err());
        assert!(document.set_service("dns", &values(json!({ "name": "web" }))).is_err());
    }
}
