//! The policy document of a PostObject: reads it and checks a form against it. Document:
//! "PostObject", appendix "Post Policy", and the EC pages 0006-00000201 to 0006-00000228.

use serde_json::Value;

use crate::digest::from_base64;
use crate::error::OssError;
use crate::http::{Pairs, header};
use crate::time;

#[derive(Debug)]
pub struct Policy {
    expiration: u64,
    conditions: Vec<Condition>,
    /// The sizes that every `content-length-range` allows, both ends included.
    pub sizes: (u64, u64),
}

#[derive(Debug)]
struct Condition {
    /// `eq` and `starts-with` have one value, `in` and `not-in` any number.
    operator: String,
    /// in lower case
    field: String,
    values: Vec<String>,
}

impl Policy {
    /// Reads the value of the form field `policy`.
    pub fn parse(field: &str) -> Result<Policy, OssError> {
        let bytes = from_base64(field);
        let bytes = bytes.ok_or(invalid("0006-00000202", "Invalid Base64 Encoding."))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| invalid("0006-00000203", "Invalid UTF-8 Encoding."))?;
        let json: Option<Value> = serde_json::from_str(&text).ok();
        let map = json.as_ref().and_then(Value::as_object);
        let map =
            map.ok_or(invalid("0006-00000204", "Invalid JSON: it is no well-formed object."))?;
        let missing = |ec, what: &str| Err(invalid(ec, &format!("Policy missing {what}.")));
        let (expiration, conditions) = match (map.get("expiration"), map.get("conditions")) {
            (Some(expiration), Some(conditions)) => (expiration, conditions),
            (Some(_), None) => return missing("0006-00000207", "conditions"),
            (None, Some(_)) => return missing("0006-00000208", "expiration"),
            (None, None) => return missing("0006-00000209", "expiration and conditions"),
        };
        if let Some(other) = map.keys().find(|key| *key != "expiration" && *key != "conditions") {
            return Err(invalid("", &format!("Unexpected: '{other}'.")));
        }
        if expiration == "" {
            return Err(invalid("0006-00000211", "Empty 'expiration'."));
        }
        let expiration = expiration.as_str().and_then(time::parse_extended);
        let expiration = expiration.ok_or(invalid("", "Invalid 'expiration' value."))?;
        let no_list = invalid("0006-00000214", "Invalid 'conditions' value: must be a List.");
        let list = conditions.as_array().ok_or(no_list)?;
        if list.is_empty() {
            return Err(invalid("0006-00000215", "Empty 'conditions' value."));
        }
        let mut policy = Policy { expiration, conditions: Vec::new(), sizes: (0, u64::MAX) };
        for condition in list {
            policy.add(condition)?;
        }
        Ok(policy)
    }

    fn add(&mut self, condition: &Value) -> Result<(), OssError> {
        match condition {
            Value::Object(map) => {
                let mut entries = map.iter();
                let (Some((field, value)), None) = (entries.next(), entries.next()) else {
                    let message = "Invalid Simple-Condition: must have exactly one property.";
                    return Err(invalid("", message));
                };
                let message = "Invalid Simple-Condition: value must be a string.";
                let value = value.as_str().ok_or(invalid("0006-00000224", message))?;
                self.conditions.push(Condition::new("eq", field, vec![unescape(value)]));
                Ok(())
            }
            Value::Array(list) => self.add_list(list),
            _ => {
                let message = "Invalid 'conditions' value: must contain Lists or Maps.";
                Err(invalid("0006-00000222", message))
            }
        }
    }

    fn add_list(&mut self, list: &[Value]) -> Result<(), OssError> {
        let operator = list.first().and_then(Value::as_str).unwrap_or("").to_ascii_lowercase();
        let wrong = |ec, why: &str| invalid(ec, &format!("Invalid {operator} Condition: {why}."));
        let known = ["eq", "starts-with", "in", "not-in", "content-length-range"];
        if !known.contains(&operator.as_str()) {
            let message = format!("Invalid Condition: unknown operator '{operator}'.");
            return Err(invalid("0006-00000216", &message));
        }
        let [_, second, third] = list else {
            return Err(wrong("0006-00000218", "wrong number of arguments"));
        };
        if operator == "content-length-range" {
            let (Some(min), Some(max)) = (second.as_u64(), third.as_u64()) else {
                return Err(wrong("0006-00000221", "not an integer"));
            };
            if max < min {
                return Err(wrong("0006-00000219", "max-len below min-len"));
            }
            self.sizes = (self.sizes.0.max(min), self.sizes.1.min(max));
            return Ok(());
        }
        let field = second.as_str().and_then(|field| field.strip_prefix('$'));
        let field = field.filter(|field| !field.is_empty());
        let field = field.ok_or(wrong("", "the field must start with '$'"))?;
        let values = match operator.as_str() {
            "eq" | "starts-with" => Some(std::slice::from_ref(third)),
            _ => third.as_array().map(Vec::as_slice),
        };
        let strings = values.and_then(|values| {
            values.iter().map(|value| value.as_str().map(unescape)).collect::<Option<_>>()
        });
        let strings = strings.ok_or(wrong("0006-00000224", "wrong type of value"))?;
        self.conditions.push(Condition::new(&operator, field, strings));
        Ok(())
    }

    /// Refuses an expired policy and a form that breaks a condition. With a V4 signature every
    /// `x-oss-*` field needs a condition, except the signature: documented for the fields that
    /// carry the signature (EC 0006-00000228), unknown and therefore taken strictly for others.
    pub fn check(&self, form: Pairs, bucket: &str, v4: bool, now: u64) -> Result<(), OssError> {
        let refused = |ec, why: String| {
            Err(OssError::denied(ec, format!("Invalid according to Policy: {why}")))
        };
        if now >= self.expiration {
            return refused("0006-00000213", "Policy expired.".to_string());
        }
        for condition in &self.conditions {
            let field = condition.field.as_str();
            let value = if field == "bucket" { Some(bucket) } else { header(form, field) };
            let failed = format!("Policy Condition failed: {}", condition.text());
            match value {
                None => return refused("0006-00000226", failed),
                Some(value) if !condition.holds(value) => return refused("0006-00000227", failed),
                Some(_) => {}
            }
        }
        let fields = if v4 { form } else { &[] };
        for (name, _) in fields {
            let name = name.to_ascii_lowercase();
            let needed = name.starts_with("x-oss-") && name != "x-oss-signature";
            if needed && !self.conditions.iter().any(|condition| condition.field == name) {
                return refused("0006-00000228", format!("Extra input fields: {name}"));
            }
        }
        Ok(())
    }
}

fn invalid(ec: &'static str, what: &str) -> OssError {
    OssError::new(400, "InvalidPolicyDocument", format!("Invalid Policy: {what}")).ec(ec)
}

impl Condition {
    fn new(operator: &str, field: &str, values: Vec<String>) -> Condition {
        let (operator, field) = (operator.to_string(), field.to_ascii_lowercase());
        Condition { operator, field, values }
    }

    fn holds(&self, value: &str) -> bool {
        let mut values = self.values.iter();
        match self.operator.as_str() {
            "starts-with" => values.any(|prefix| value.starts_with(prefix)),
            "not-in" => values.all(|known| known != value),
            _ => values.any(|known| known == value),
        }
    }

    /// As OSS names it in the message: `["eq", "$key", "a.txt"]`, also for `{"key": "a.txt"}`.
    fn text(&self) -> String {
        let Condition { operator, field, values } = self;
        let values: Vec<_> = values.iter().map(|value| Value::from(&**value).to_string()).collect();
        let values = values.join(", ");
        let is_list = operator == "in" || operator == "not-in";
        let values = if is_list { format!("[{values}]") } else { values };
        format!(r#"["{operator}", "${field}", {values}]"#)
    }
}

/// "Post Policy", escape characters: `\$` stands for a literal dollar sign.
fn unescape(text: &str) -> String {
    text.replace("\\$", "$")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::base64;

    const NOW: u64 = 1_701_605_532; // an hour before the policies expire

    fn parse(text: &str) -> Result<Policy, OssError> {
        Policy::parse(&base64(text.as_bytes()))
    }

    fn policy(conditions: &str) -> Result<Policy, OssError> {
        let expiration = "2023-12-03T13:12:12.000Z";
        parse(&format!(r#"{{"expiration":"{expiration}","conditions":[{conditions}]}}"#))
    }

    #[test]
    fn malformed_documents() {
        let documents = [
            ("hello", "0006-00000204"),
            ("[]", "0006-00000204"),
            ("{}", "0006-00000209"),
            (r#"{"expiration":"2023-12-03T13:12:12.000Z"}"#, "0006-00000207"),
            (r#"{"conditions":[]}"#, "0006-00000208"),
            (r#"{"expiration":"","conditions":[]}"#, "0006-00000211"),
            (r#"{"expiration":1,"conditions":[]}"#, ""),
            (r#"{"expiration":"2023-12-03 13:12","conditions":[]}"#, ""),
            (r#"{"expiration":"2023-12-03T13:12:12Z","conditions":123}"#, "0006-00000214"),
        ];
        let conditions = [
            (r#"{"key":"a"}],"more":[1"#, ""),
            ("", "0006-00000215"),
            ("123", "0006-00000222"),
            ("{}", ""),
            (r#"{"a":"1","b":"2"}"#, ""),
            (r#"{"a":1}"#, "0006-00000224"),
            ("[]", "0006-00000216"),
            (r#"["$key"]"#, "0006-00000216"),
            (r#"["ends-with","$key","a"]"#, "0006-00000216"),
            (r#"["eq","$key"]"#, "0006-00000218"),
            (r#"["starts-with","$key","a","b"]"#, "0006-00000218"),
            (r#"["eq","key","a"]"#, ""),
            (r#"["eq","$","a"]"#, ""),
            (r#"["eq","$key",1]"#, "0006-00000224"),
            (r#"["in","$key","a"]"#, "0006-00000224"),
            (r#"["not-in","$cache-control","no-cache"]"#, "0006-00000224"),
            (r#"["in","$key",[1]]"#, "0006-00000224"),
            (r#"["content-length-range",20,10]"#, "0006-00000219"),
            (r#"["content-length-range",10,"test"]"#, "0006-00000221"),
            (r#"["content-length-range",-1,10]"#, "0006-00000221"),
        ];
        let mut cases: Vec<_> = documents.map(|(text, ec)| (text, parse(text), ec)).into();
        cases.extend(conditions.map(|(text, ec)| (text, policy(text), ec)));
        cases.push(("no base64", Policy::parse("a*"), "0006-00000202"));
        cases.push(("no UTF-8", Policy::parse(&base64(b"\xff")), "0006-00000203"));
        for (text, result, ec) in cases {
            let error = result.expect_err(text);
            let OssError { status, code, .. } = &error;
            assert_eq!((*status, &**code, error.ec), (400, "InvalidPolicyDocument", ec), "{text}");
        }
    }

    /// Checks a form against conditions: the EC number and the message of a refusal, or nothing.
    fn check(conditions: &str, fields: &[(&str, &str)], v4: bool, now: u64) -> String {
        let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        let form: Vec<_> = fields.iter().map(own).collect();
        match policy(conditions).unwrap().check(&form, "examplebucket", v4, now) {
            Ok(()) => String::new(),
            Err(error) => {
                assert_eq!((error.status, error.code.as_str()), (403, "AccessDenied"));
                let message = error.message.strip_prefix("Invalid according to Policy: ").unwrap();
                format!("{} {message}", error.ec)
            }
        }
    }

    #[test]
    fn an_expired_policy() {
        let check = |now| check(r#"{"bucket":"examplebucket"}"#, &[], false, now);
        assert_eq!(check(NOW + 3599), "");
        assert_eq!(check(NOW + 3600), "0006-00000213 Policy expired.");
    }

    #[test]
    fn conditions_that_hold_and_conditions_that_fail() {
        for (condition, field, value, failed) in [
            (r#"{"bucket":"examplebucket"}"#, "", "", ""),
            (r#"["eq","$Bucket","examplebucket"]"#, "", "", ""),
            (r#"{"KEY":"a"},["EQ","$key","a"]"#, "Key", "a", ""),
            (r#"["starts-with","$key","user/"]"#, "key", "user/a", ""),
            (r#"["starts-with","$key",""]"#, "key", "", ""),
            (r#"["in","$content-type",["a/b","c/d"]]"#, "Content-Type", "c/d", ""),
            (r#"["not-in","$cache-control",["no-cache"]]"#, "Cache-Control", "x", ""),
            (r#"["eq","$key","a/\\${filename}"]"#, "key", "a/${filename}", ""),
            (r#"{"callback":"eyJ9"}"#, "callback", "eyJ9", ""),
            (r#"{"bucket":"other"}"#, "", "", r#"["eq", "$bucket", "other"]"#),
            (r#"{"key":"a"}"#, "key", "b", r#"["eq", "$key", "a"]"#),
            (r#"["eq","$x","v"]"#, "x", "V", r#"["eq", "$x", "v"]"#),
            (r#"["eq","$x","\\$\""]"#, "x", "\\$", r#"["eq", "$x", "$\""]"#),
            (r#"["starts-with","$k","u/"]"#, "k", "U/", r#"["starts-with", "$k", "u/"]"#),
            (r#"["in","$a",["b","c"]]"#, "a", "d", r#"["in", "$a", ["b", "c"]]"#),
            (r#"["not-in","$a",["b"]]"#, "a", "b", r#"["not-in", "$a", ["b"]]"#),
            (r#"["not-in","$a",["b","c"]]"#, "a", "c", r#"["not-in", "$a", ["b", "c"]]"#),
            (r#"{"callback":"eyJ9"}"#, "callback", "e30=", r#"["eq", "$callback", "eyJ9"]"#),
        ] {
            let got = check(condition, &[(field, value)], false, NOW);
            let ec = "0006-00000227 Policy Condition failed: ";
            let expected = if failed.is_empty() { failed } else { &format!("{ec}{failed}") };
            assert_eq!(got, expected, "{condition}");
        }
        // Fields that are missing.
        for condition in [r#"{"x":""}"#, r#"["starts-with","$x",""]"#, r#"["not-in","$x",[]]"#] {
            assert!(check(condition, &[("key", "a")], false, NOW).starts_with("0006-00000226 "));
        }
    }

    #[test]
    fn v4_refuses_fields_that_no_condition_lists() {
        let check = |field, v4| {
            let fields = [("key", "k"), ("x-oss-date", "d"), (field, "public-read")];
            check(r#"{"x-oss-date":"d"},["starts-with","$key",""]"#, &fields, v4, NOW)
        };
        assert_eq!(check("x-oss-signature", true) + &check("x:a", true), "");
        assert_eq!(check("X-OSS-Object-ACL", false), "");
        let extra = "0006-00000228 Extra input fields: x-oss-object-acl";
        assert_eq!(check("X-OSS-Object-ACL", true), extra);
    }

    #[test]
    fn length_ranges_meet() {
        let (one, two) = ("[\"content-length-range\",1,10]", "[\"content-length-range\",5,20]");
        assert_eq!(policy(r#"{"key":"a"}"#).unwrap().sizes, (0, u64::MAX));
        assert_eq!(policy(one).unwrap().sizes, (1, 10));
        assert_eq!(policy(&format!("{one},{two}")).unwrap().sizes, (5, 10));
    }
}
