//! The policy document of a PostObject: reads it and checks a form against it. Document:
//! "PostObject", appendix "Post Policy", and the EC pages 0006-00000201 to 0006-00000228.

use serde_json::Value;

use crate::digest::from_base64;
use crate::error::OssError;
use crate::time;

/// The fields in front of the file, in the order of the form.
#[derive(Clone, Debug, Default)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// Names of form fields do not depend on case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut fields = self.0.iter();
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug)]
pub struct Policy {
    expiration: u64,
    conditions: Vec<Condition>,
}

#[derive(Debug, PartialEq)]
enum Condition {
    Equals(String, String),
    StartsWith(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Length(u64, u64),
}

impl Policy {
    /// Reads the value of the form field `policy`.
    pub fn parse(field: &str) -> Result<Policy, OssError> {
        let bytes = from_base64(field)
            .ok_or_else(|| invalid("Invalid Base64 Encoding.").ec("0006-00000202"))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| invalid("Invalid UTF-8 Encoding.").ec("0006-00000203"))?;
        let json: Value = serde_json::from_str(&text)
            .map_err(|_| invalid("Invalid JSON: it is not well-formed.").ec("0006-00000204"))?;
        let map = json
            .as_object()
            .ok_or_else(|| invalid("Invalid JSON: it is no object.").ec("0006-00000204"))?;
        let (expiration, conditions) = match (map.get("expiration"), map.get("conditions")) {
            (Some(expiration), Some(conditions)) => (expiration, conditions),
            (Some(_), None) => {
                return Err(invalid("Policy missing conditions.").ec("0006-00000207"));
            }
            (None, Some(_)) => {
                return Err(invalid("Policy missing expiration.").ec("0006-00000208"));
            }
            (None, None) => {
                let error = invalid("Policy missing expiration and conditions.");
                return Err(error.ec("0006-00000209"));
            }
        };
        if let Some(other) = map.keys().find(|key| *key != "expiration" && *key != "conditions") {
            return Err(invalid(format!("Unexpected: '{other}'.")));
        }
        let expiration = match expiration.as_str() {
            Some("") => return Err(invalid("Empty 'expiration'.").ec("0006-00000211")),
            text => text.and_then(time::parse_extended),
        };
        let expiration = expiration.ok_or_else(|| invalid("Invalid 'expiration' value."))?;
        let conditions = conditions.as_array().ok_or_else(|| {
            invalid("Invalid 'conditions' value: must be a List.").ec("0006-00000214")
        })?;
        if conditions.is_empty() {
            return Err(invalid("Empty 'conditions' value.").ec("0006-00000215"));
        }
        let conditions = conditions.iter().map(condition).collect::<Result<_, _>>()?;
        Ok(Policy { expiration, conditions })
    }

    /// Refuses an expired policy and a form that breaks a condition. With a V4 signature every
    /// `x-oss-*` field needs a condition, except the signature: documented for the fields that
    /// carry the signature (EC 0006-00000228), unknown and therefore taken strictly for others.
    pub fn check(&self, form: &Fields, bucket: &str, v4: bool, now: u64) -> Result<(), OssError> {
        if now >= self.expiration {
            return Err(OssError::denied(format!("{REFUSED} Policy expired.")).ec("0006-00000213"));
        }
        for condition in &self.conditions {
            let Some(field) = condition.field() else { continue };
            let value = if field == "bucket" { Some(bucket) } else { form.get(field) };
            let failed = format!("{REFUSED} Policy Condition failed: {}", condition.text());
            match value {
                None => return Err(OssError::denied(failed).ec("0006-00000226")),
                Some(value) if !condition.holds(value) => {
                    return Err(OssError::denied(failed).ec("0006-00000227"));
                }
                Some(_) => {}
            }
        }
        if v4 {
            let names = form.0.iter().map(|(name, _)| name.to_ascii_lowercase());
            let mut extra = names.filter(|name| {
                name.starts_with("x-oss-")
                    && name != "x-oss-signature"
                    && !self.conditions.iter().any(|condition| condition.field() == Some(name))
            });
            if let Some(name) = extra.next() {
                let message = format!("{REFUSED} Extra input fields: {name}");
                return Err(OssError::denied(message).ec("0006-00000228"));
            }
        }
        Ok(())
    }

    /// The sizes that every `content-length-range` allows, both ends included.
    pub fn length_range(&self) -> (u64, u64) {
        self.conditions.iter().fold((0, u64::MAX), |(least, most), condition| match condition {
            Condition::Length(min, max) => (least.max(*min), most.min(*max)),
            _ => (least, most),
        })
    }
}

const REFUSED: &str = "Invalid according to Policy:";

fn invalid(what: impl AsRef<str>) -> OssError {
    OssError::new(400, "InvalidPolicyDocument", format!("Invalid Policy: {}", what.as_ref()))
}

impl Condition {
    /// The form field in lower case; `None` for the condition on the file's size.
    fn field(&self) -> Option<&str> {
        match self {
            Condition::Equals(field, _) | Condition::StartsWith(field, _) => Some(field),
            Condition::In(field, _) | Condition::NotIn(field, _) => Some(field),
            Condition::Length(..) => None,
        }
    }

    fn holds(&self, value: &str) -> bool {
        match self {
            Condition::Equals(_, wanted) => value == wanted,
            Condition::StartsWith(_, prefix) => value.starts_with(prefix.as_str()),
            Condition::In(_, list) => list.iter().any(|known| known == value),
            Condition::NotIn(_, list) => !list.iter().any(|known| known == value),
            Condition::Length(..) => true,
        }
    }

    /// As OSS names it in the message: `["eq", "$key", "a.txt"]`, also for `{"key": "a.txt"}`.
    fn text(&self) -> String {
        let quoted = |text: &String| Value::from(text.as_str()).to_string();
        let list = |list: &[String]| list.iter().map(quoted).collect::<Vec<_>>().join(", ");
        match self {
            Condition::Equals(field, value) => format!("[\"eq\", \"${field}\", {}]", quoted(value)),
            Condition::StartsWith(field, prefix) => {
                format!("[\"starts-with\", \"${field}\", {}]", quoted(prefix))
            }
            Condition::In(field, values) => format!("[\"in\", \"${field}\", [{}]]", list(values)),
            Condition::NotIn(field, values) => {
                format!("[\"not-in\", \"${field}\", [{}]]", list(values))
            }
            Condition::Length(min, max) => format!("[\"content-length-range\", {min}, {max}]"),
        }
    }
}

fn condition(value: &Value) -> Result<Condition, OssError> {
    match value {
        Value::Object(map) => match map.iter().next() {
            Some((field, Value::String(value))) if map.len() == 1 => {
                Ok(Condition::Equals(field.to_ascii_lowercase(), unescape(value)))
            }
            Some((_, Value::String(_))) | None => {
                Err(invalid("Invalid Simple-Condition: must have exactly one property."))
            }
            Some(_) => {
                let error = invalid("Invalid Simple-Condition: value must be a string.");
                Err(error.ec("0006-00000224"))
            }
        },
        Value::Array(list) => match_condition(list),
        _ => {
            Err(invalid("Invalid 'conditions' value: must contain Lists or Maps.")
                .ec("0006-00000222"))
        }
    }
}

fn match_condition(list: &[Value]) -> Result<Condition, OssError> {
    let Some(operator) = list.first().and_then(Value::as_str) else {
        return Err(invalid("Invalid Condition: an operator is missing.").ec("0006-00000216"));
    };
    let operator = operator.to_ascii_lowercase();
    let known = ["eq", "starts-with", "in", "not-in", "content-length-range"];
    if !known.contains(&operator.as_str()) {
        let error = invalid(format!("Invalid Condition: unknown operator '{operator}'."));
        return Err(error.ec("0006-00000216"));
    }
    let [_, second, third] = list else {
        let error = invalid(format!("Invalid {operator} Condition: wrong number of arguments."));
        return Err(error.ec("0006-00000218"));
    };
    if operator == "content-length-range" {
        let range = |value: &Value| {
            let error = || invalid("Invalid content-length-range Condition: not an integer.");
            value.as_u64().ok_or_else(|| error().ec("0006-00000221"))
        };
        let (min, max) = (range(second)?, range(third)?);
        if max < min {
            let error = invalid("Invalid content-length-range Condition: max-len below min-len.");
            return Err(error.ec("0006-00000219"));
        }
        return Ok(Condition::Length(min, max));
    }
    let field = second.as_str().and_then(|field| field.strip_prefix('$'));
    let field = field.filter(|field| !field.is_empty());
    let field = field.ok_or_else(|| {
        invalid(format!("Invalid {operator} Condition: the field must start with '$'."))
    })?;
    let field = field.to_ascii_lowercase();
    let wrong_type = || {
        invalid(format!("Invalid {operator} Condition: wrong type of value.")).ec("0006-00000224")
    };
    if let "eq" | "starts-with" = operator.as_str() {
        let value = unescape(third.as_str().ok_or_else(wrong_type)?);
        return Ok(match operator.as_str() {
            "eq" => Condition::Equals(field, value),
            _ => Condition::StartsWith(field, value),
        });
    }
    let values = third.as_array().ok_or_else(wrong_type)?;
    let values = values.iter().map(|value| Some(unescape(value.as_str()?)));
    let values = values.collect::<Option<Vec<_>>>().ok_or_else(wrong_type)?;
    Ok(match operator.as_str() {
        "in" => Condition::In(field, values),
        _ => Condition::NotIn(field, values),
    })
}

/// "Post Policy", escape characters: `\$` stands for a literal dollar sign.
fn unescape(text: &str) -> String {
    text.replace("\\$", "$")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::base64;

    const EXPIRATION: &str = "2023-12-03T13:12:12.000Z";
    const NOW: u64 = 1_701_605_532; // an hour earlier

    fn parse(text: &str) -> Result<Policy, OssError> {
        Policy::parse(&base64(text.as_bytes()))
    }

    fn policy(conditions: &str) -> Result<Policy, OssError> {
        parse(&format!("{{\"expiration\":\"{EXPIRATION}\",\"conditions\":{conditions}}}"))
    }

    type Form<'a> = &'a [(&'a str, &'a str)];

    fn form(fields: Form) -> Fields {
        Fields(fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    fn check(conditions: &str, fields: Form) -> Result<(), OssError> {
        policy(conditions).unwrap().check(&form(fields), "examplebucket", false, NOW)
    }

    #[test]
    fn malformed_documents() {
        let with = |conditions: &str| {
            format!("{{\"expiration\":\"{EXPIRATION}\",\"conditions\":{conditions}}}")
        };
        let cases = [
            ("hello".to_string(), Some("0006-00000204")),
            ("[]".to_string(), Some("0006-00000204")),
            ("{}".to_string(), Some("0006-00000209")),
            (format!("{{\"expiration\":\"{EXPIRATION}\"}}"), Some("0006-00000207")),
            ("{\"conditions\":[]}".to_string(), Some("0006-00000208")),
            ("{\"expiration\":\"\",\"conditions\":[]}".to_string(), Some("0006-00000211")),
            ("{\"expiration\":1,\"conditions\":[]}".to_string(), None),
            ("{\"expiration\":\"2023-12-03 13:12\",\"conditions\":[]}".to_string(), None),
            (with("[{\"key\":\"a\"}],\"more\":1"), None),
            (with("123"), Some("0006-00000214")),
            (with("[]"), Some("0006-00000215")),
            (with("[123]"), Some("0006-00000222")),
            (with("[{}]"), None),
            (with("[{\"a\":\"1\",\"b\":\"2\"}]"), None),
            (with("[{\"a\":1}]"), Some("0006-00000224")),
            (with("[[]]"), Some("0006-00000216")),
            (with("[[\"$key\"]]"), Some("0006-00000216")),
            (with("[[\"ends-with\",\"$key\",\"a\"]]"), Some("0006-00000216")),
            (with("[[\"eq\",\"$key\"]]"), Some("0006-00000218")),
            (with("[[\"starts-with\",\"$key\",\"a\",\"b\"]]"), Some("0006-00000218")),
            (with("[[\"eq\",\"key\",\"a\"]]"), None),
            (with("[[\"eq\",\"$\",\"a\"]]"), None),
            (with("[[\"eq\",\"$key\",1]]"), Some("0006-00000224")),
            (with("[[\"in\",\"$key\",\"a\"]]"), Some("0006-00000224")),
            (with("[[\"not-in\",\"$cache-control\",\"no-cache\"]]"), Some("0006-00000224")),
            (with("[[\"in\",\"$key\",[1]]]"), Some("0006-00000224")),
            (with("[[\"content-length-range\",20,10]]"), Some("0006-00000219")),
            (with("[[\"content-length-range\",10,\"test\"]]"), Some("0006-00000221")),
            (with("[[\"content-length-range\",-1,10]]"), Some("0006-00000221")),
        ];
        for (text, ec) in cases {
            let error = parse(&text).expect_err(&text);
            let code = error.code.as_str();
            assert_eq!(
                (error.status, code, error.ec),
                (400, "InvalidPolicyDocument", ec),
                "{text}"
            );
        }
        assert_eq!(Policy::parse("a*").unwrap_err().ec, Some("0006-00000202"));
        assert_eq!(Policy::parse(&base64(b"\xff")).unwrap_err().ec, Some("0006-00000203"));
    }

    #[test]
    fn an_expired_policy() {
        let policy = policy("[{\"bucket\":\"examplebucket\"}]").unwrap();
        let form = form(&[]);
        assert!(policy.check(&form, "examplebucket", false, NOW + 3599).is_ok());
        let error = policy.check(&form, "examplebucket", false, NOW + 3600).unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (403, "AccessDenied"));
        assert_eq!(error.message, "Invalid according to Policy: Policy expired.");
        assert_eq!(error.ec, Some("0006-00000213"));
    }

    #[test]
    fn conditions_that_hold() {
        let cases: [(&str, Form); 9] = [
            ("[{\"bucket\":\"examplebucket\"}]", &[]),
            ("[[\"eq\",\"$Bucket\",\"examplebucket\"]]", &[]),
            ("[{\"KEY\":\"a\"},[\"EQ\",\"$key\",\"a\"]]", &[("Key", "a")]),
            ("[[\"starts-with\",\"$key\",\"user/\"]]", &[("key", "user/a")]),
            ("[[\"starts-with\",\"$key\",\"\"]]", &[("key", "")]),
            ("[[\"in\",\"$content-type\",[\"a/b\",\"c/d\"]]]", &[("Content-Type", "c/d")]),
            ("[[\"not-in\",\"$cache-control\",[\"no-cache\"]]]", &[("Cache-Control", "x")]),
            ("[[\"eq\",\"$key\",\"a/\\\\${filename}\"]]", &[("key", "a/${filename}")]),
            ("[{\"callback\":\"eyJ9\"}]", &[("callback", "eyJ9")]),
        ];
        for (conditions, fields) in cases {
            assert_eq!(check(conditions, fields), Ok(()), "{conditions}");
        }
    }

    #[test]
    fn conditions_that_fail_and_fields_that_are_missing() {
        let cases: [(&str, Form, &str); 8] = [
            ("{\"bucket\":\"other\"}", &[], "[\"eq\", \"$bucket\", \"other\"]"),
            ("{\"key\":\"a\"}", &[("key", "b")], "[\"eq\", \"$key\", \"a\"]"),
            ("[\"eq\",\"$x\",\"v\"]", &[("x", "V")], "[\"eq\", \"$x\", \"v\"]"),
            ("[\"eq\",\"$x\",\"\\\\$\\\"\"]", &[("x", "\\$")], "[\"eq\", \"$x\", \"$\\\"\"]"),
            (
                "[\"starts-with\",\"$key\",\"u/\"]",
                &[("key", "U/")],
                "[\"starts-with\", \"$key\", \"u/\"]",
            ),
            ("[\"in\",\"$a\",[\"b\",\"c\"]]", &[("a", "d")], "[\"in\", \"$a\", [\"b\", \"c\"]]"),
            ("[\"not-in\",\"$a\",[\"b\"]]", &[("a", "b")], "[\"not-in\", \"$a\", [\"b\"]]"),
            (
                "{\"callback\":\"eyJ9\"}",
                &[("callback", "e30=")],
                "[\"eq\", \"$callback\", \"eyJ9\"]",
            ),
        ];
        for (condition, fields, text) in cases {
            let error = check(&format!("[{condition}]"), fields).unwrap_err();
            assert_eq!((error.status, error.code.as_str()), (403, "AccessDenied"));
            let message = format!("Invalid according to Policy: Policy Condition failed: {text}");
            assert_eq!((error.message, error.ec), (message, Some("0006-00000227")));
        }
        for condition in ["{\"x\":\"\"}", "[\"starts-with\",\"$x\",\"\"]", "[\"not-in\",\"$x\",[]]"]
        {
            let error = check(&format!("[{condition}]"), &[("key", "a")]).unwrap_err();
            assert_eq!((error.status, error.ec), (403, Some("0006-00000226")), "{condition}");
        }
    }

    #[test]
    fn v4_refuses_fields_that_no_condition_lists() {
        let policy = policy("[{\"x-oss-date\":\"d\"},[\"starts-with\",\"$key\",\"\"]]").unwrap();
        let check = |fields: Form, v4| policy.check(&form(fields), "b", v4, NOW);
        let listed = [("key", "k"), ("x-oss-date", "d"), ("x-oss-signature", "s"), ("x:a", "1")];
        assert_eq!(check(&listed, true), Ok(()));
        let extra = [("key", "k"), ("x-oss-date", "d"), ("X-OSS-Object-ACL", "public-read")];
        assert_eq!(check(&extra, false), Ok(()));
        let error = check(&extra, true).unwrap_err();
        assert_eq!(
            error.message,
            "Invalid according to Policy: Extra input fields: x-oss-object-acl"
        );
        assert_eq!((error.status, error.ec), (403, Some("0006-00000228")));
    }

    #[test]
    fn length_ranges_meet() {
        let range = |conditions: &str| policy(conditions).unwrap().length_range();
        assert_eq!(range("[{\"key\":\"a\"}]"), (0, u64::MAX));
        assert_eq!(range("[[\"content-length-range\",1,10]]"), (1, 10));
        let two = "[[\"content-length-range\",1,10],[\"content-length-range\",5,20]]";
        assert_eq!(range(two), (5, 10));
    }
}
