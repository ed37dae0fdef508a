//! An upload, as a verified callback tells of it: the fields of its body, its note in the log and
//! its line in the record.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use crate::http::Request;
use crate::oss::callback::{self, Verified};
use crate::sys::time;

/// Variables that stand at the top of a line of the record. All other fields are `custom`.
const TEXTS: [&str; 6] = ["bucket", "object", "etag", "mimeType", "imageInfo.format", "reqId"];
const NUMBERS: [&str; 3] = ["size", "imageInfo.height", "imageInfo.width"];

pub struct Upload<'a> {
    pub id: u64,
    /// By OSS's variable (`object`). Empty where there is no value.
    pub variables: BTreeMap<String, String>,
    /// By name: fields that carry no variable, whatever they are called.
    constants: BTreeMap<String, String>,
    /// Who uploaded, as the upload token has it. May be empty.
    pub subject: String,
    /// Only where it does not parse.
    pub body: Cow<'a, str>,
}

impl<'a> Upload<'a> {
    /// `template` is `CALLBACK_BODY`, read like a body. A body that does not parse has no fields.
    pub fn new(
        request: &'a Request,
        verified: &Verified,
        template: &BTreeMap<String, String>,
        body_type: &str,
    ) -> Upload<'a> {
        let fields = callback::fields(verified, body_type);
        let body = String::from_utf8_lossy(if fields.is_some() { b"" } else { &request.body });
        let (mut variables, mut constants) = (BTreeMap::new(), BTreeMap::new());
        for (name, value) in fields.unwrap_or_default() {
            let text = template.get(&name).map_or("", String::as_str);
            let variable = text.strip_prefix("${").and_then(|text| text.strip_suffix('}'));
            match variable.filter(|variable| !variable.contains('}')) {
                Some(variable) => variables.insert(variable.to_owned(), value),
                None => constants.insert(name, value),
            };
        }
        let id = verified.id(variables.get("reqId").is_some_and(|id| !id.is_empty()));
        Upload { id, variables, constants, subject: String::new(), body }
    }

    pub fn field(&self, variable: &str) -> &str {
        self.variables.get(variable).map_or("", String::as_str)
    }

    /// For the log. A body without fields is shown as it came.
    pub fn note(&self) -> String {
        let mut note = "callback".to_owned();
        for name in ["bucket", "object", "size", "etag", "mimeType", "reqId"] {
            if let Some(value) = self.variables.get(name) {
                note += &format!(" {name}={value:?}");
            }
        }
        for (name, value) in [("subject", self.subject.as_str()), ("body", &self.body)] {
            if !value.is_empty() {
                note += &format!(" {name}={value:?}");
            }
        }
        note
    }

    /// The line of the record. What has no value is not there.
    pub fn line(&self, now: u64) -> String {
        let mut custom = self.constants.clone();
        let mut line = vec![("time", Value::from(time::iso8601(now)))];
        for (variable, text) in self.variables.iter().filter(|(_, text)| !text.is_empty()) {
            match (variable.as_str(), text.parse::<u64>()) {
                (name, Ok(number)) if NUMBERS.contains(&name) => line.push((name, number.into())),
                (name, _) if TEXTS.contains(&name) => line.push((name, text.as_str().into())),
                _ => drop(custom.insert(variable.clone(), text.clone())),
            }
        }
        for (name, text) in [("subject", self.subject.as_str()), ("body", &self.body)] {
            if !text.is_empty() {
                line.push((name, text.into()));
            }
        }
        line.push(("custom", custom.into_iter().collect()));
        let members = Value::from_iter(line).to_string();
        format!("{{\"id\":\"{:016x}\",{}\n", self.id, members.trim_start_matches('{'))
    }
}
