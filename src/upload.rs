//! An upload, as a verified callback tells of it: the fields of its body, its note in the log and
//! its line in the record.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use crate::http::Request;
use crate::oss::callback::{self, Verified};
use crate::sys::time;

const LOGGED: [&str; 5] = ["bucket", "object", "size", "etag", "mimeType"];
/// What stands at the top of a line of the record. All other fields are `custom`.
const TEXTS: [&str; 5] = ["bucket", "object", "etag", "mimeType", "imageInfo.format"];
const NUMBERS: [&str; 3] = ["size", "imageInfo.height", "imageInfo.width"];

pub struct Upload<'a> {
    /// By OSS's variable (`object`), or by the field's own name if the template has none for it.
    fields: BTreeMap<String, String>,
    /// Who uploaded, as the upload token has it. May be empty.
    pub subject: String,
    request_id: &'a str,
    body: Cow<'a, str>,
}

impl<'a> Upload<'a> {
    /// `template` is `CALLBACK_BODY`, read like a body. A body that does not parse has no fields.
    pub fn new(
        request: &'a Request,
        verified: &Verified,
        template: &BTreeMap<String, String>,
    ) -> Upload<'a> {
        let content_type = request.header("content-type").unwrap_or_default();
        let mut fields = BTreeMap::new();
        for (name, value) in callback::fields(verified, content_type).unwrap_or_default() {
            let text = template.get(&name).map_or("", String::as_str);
            let variable = text.strip_prefix("${").and_then(|text| text.strip_suffix('}'));
            fields.insert(variable.map_or(name, str::to_owned), value);
        }
        let request_id = request.header("x-oss-request-id").unwrap_or_default();
        let body = String::from_utf8_lossy(&request.body);
        Upload { fields, subject: String::new(), request_id, body }
    }

    pub fn field(&self, variable: &str) -> &str {
        self.fields.get(variable).map_or("", String::as_str)
    }

    /// For the log. A body without fields is shown as it came.
    pub fn note(&self) -> String {
        let mut note = "callback".to_owned();
        for name in LOGGED {
            if let Some(value) = self.fields.get(name) {
                note += &format!(" {name}={value:?}");
            }
        }
        let body = if self.fields.is_empty() { &self.body } else { "" };
        for (name, value) in
            [("subject", self.subject.as_str()), ("request", self.request_id), ("body", body)]
        {
            if !value.is_empty() {
                note += &format!(" {name}={value:?}");
            }
        }
        note
    }

    /// The line of the record.
    pub fn line(&self, now: u64) -> String {
        let mut custom = self.fields.clone();
        let mut line = vec![
            ("time", time::iso8601(now).into()),
            ("request", self.request_id.into()),
            ("body", self.body.as_ref().into()),
        ];
        for name in TEXTS.into_iter().chain(NUMBERS) {
            let Some(text) = custom.remove(name) else { continue };
            let value = match text.parse::<u64>() {
                Ok(number) if NUMBERS.contains(&name) => number.into(),
                _ => Value::from(text),
            };
            line.push((name, value));
        }
        if !self.subject.is_empty() {
            line.push(("subject", self.subject.as_str().into()));
        }
        line.push(("custom", custom.into_iter().collect()));
        format!("{}\n", Value::from_iter(line))
    }
}
