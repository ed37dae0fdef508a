//! RAM policies, of a key, a role or a session: what a credential may do. Documents: RAM's "Policy
//! structure and syntax", and OSS's "RAM policy" for actions and resources. Narrower than the real
//! one: no `NotAction`, `NotResource` or `Condition`, which count as bad grammar here.

use serde_json::{Map, Value};
use wildmatch::WildMatch;

#[derive(Debug, PartialEq)]
pub struct SessionPolicy(Vec<Statement>);

#[derive(Debug, PartialEq)]
struct Statement {
    allow: bool,
    actions: Vec<String>,
    resources: Vec<String>,
}

impl SessionPolicy {
    /// Reads the JSON document; `None` where STS would say `InvalidParameter.PolicyGrammar`.
    pub fn parse(text: &str) -> Option<SessionPolicy> {
        let json: Value = serde_json::from_str(text).ok()?;
        let map = json.as_object().filter(|map| map.len() == 2)?;
        map.get("Version").filter(|version| **version == "1")?;
        let statements = map.get("Statement")?.as_array().filter(|list| !list.is_empty())?;
        let statements = statements.iter().map(|one| statement(one.as_object()?));
        Some(SessionPolicy(statements.collect::<Option<_>>()?))
    }

    /// Whether a statement allows it and none denies it.
    pub fn allows(&self, action: &str, resource: &str) -> bool {
        let any = |allow: bool| {
            self.0.iter().any(|statement| {
                statement.allow == allow
                    && statement.actions.iter().any(|pattern| fits(pattern, action))
                    && statement.resources.iter().any(|pattern| covers(pattern, resource))
            })
        };
        any(true) && !any(false)
    }
}

fn statement(map: &Map<String, Value>) -> Option<Statement> {
    if map.keys().any(|name| !["Effect", "Action", "Resource"].contains(&name.as_str())) {
        return None;
    }
    let allow = match map.get("Effect")?.as_str()? {
        "Allow" => true,
        "Deny" => false,
        _ => return None,
    };
    let actions = strings(map.get("Action")?)?;
    let resources = strings(map.get("Resource")?)?;
    let action = |text: &String| text == "*" || text.split(':').count() == 2;
    let resource = |text: &String| {
        text == "*" || (text.starts_with("acs:") && text.splitn(5, ':').count() == 5)
    };
    let good = actions.iter().all(action) && resources.iter().all(resource);
    good.then_some(Statement { allow, actions, resources })
}

/// One text or a list of them.
fn strings(value: &Value) -> Option<Vec<String>> {
    let own = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_string);
    match value {
        Value::Array(list) if !list.is_empty() => list.iter().map(own).collect(),
        other => Some(vec![own(other)?]),
    }
}

/// A resource is `acs:SERVICE:REGION:ACCOUNT:NAME`. Part by part, so that the `*` of an account
/// cannot swallow the bucket: whether the real one could is not documented.
fn covers(pattern: &str, resource: &str) -> bool {
    let parts = pattern.splitn(5, ':').zip(resource.splitn(5, ':'));
    pattern == "*" || parts.into_iter().all(|(pattern, part)| fits(pattern, part))
}

/// `*` stands for any characters, `?` for one.
fn fits(pattern: &str, text: &str) -> bool {
    WildMatch::new(pattern).matches(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"Effect":"Allow","Action":"oss:PutObject","Resource":["*"]}"#;

    fn statements(text: &str) -> Option<SessionPolicy> {
        SessionPolicy::parse(&format!(r#"{{"Version":"1","Statement":[{text}]}}"#))
    }

    #[test]
    fn documents_that_are_no_policies() {
        assert!(statements(GOOD).is_some());
        let document = |start: &str| format!(r#"{{{start},"Statement":[{GOOD}]}}"#);
        assert!(SessionPolicy::parse(&document(r#""Version":"1""#)).is_some());
        for text in [
            "",
            "[]",
            "{}",
            r#"{"Version":"1"}"#,
            r#"{"Version":"1","Statement":{}}"#,
            &document(r#""Version":"2""#),
            &document(r#""Version":1"#),
            &document(r#""Version":"2012-10-17""#),
            &document(r#""Version":"1","Id":"a""#),
        ] {
            assert_eq!(SessionPolicy::parse(text), None, "{text}");
        }
        for text in [
            "",
            "1",
            r#"{"Effect":"Allow","Action":"*"}"#,
            r#"{"Effect":"Allow","Resource":"*"}"#,
            r#"{"Action":"*","Resource":"*"}"#,
            r#"{"Effect":"allow","Action":"*","Resource":"*"}"#,
            r#"{"Effect":"Allow","Action":[],"Resource":"*"}"#,
            r#"{"Effect":"Allow","Action":"","Resource":"*"}"#,
            r#"{"Effect":"Allow","Action":"PutObject","Resource":"*"}"#,
            r#"{"Effect":"Allow","Action":"*","Resource":[1]}"#,
            r#"{"Effect":"Allow","Action":"*","Resource":"bucket/*"}"#,
            r#"{"Effect":"Allow","Action":"*","Resource":"acs:oss:*:bucket/*"}"#,
            r#"{"Effect":"Allow","Action":"*","Resource":"arn:oss:*:*:bucket/*"}"#,
            r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{}}"#,
        ] {
            assert_eq!(statements(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_allowed() {
        let one = |action: &str, resource: &str| {
            format!(r#"{{"Effect":"Allow","Action":[{action}],"Resource":"{resource}"}}"#)
        };
        let allows = |statement: &str, name: &str| {
            let policy = statements(statement).unwrap();
            policy.allows("oss:PutObject", &format!("acs:oss:oss-r:1:{name}"))
        };
        let put = r#""oss:PutObject""#;
        for (action, resource, expected) in [
            (put, "acs:oss:*:*:b/u/*", true),
            (put, "acs:oss:*:*:b/u/?.txt", true),
            (put, "acs:oss:oss-r:1:b/u/a.txt", true),
            (r#""oss:GetObject","oss:Put*""#, "*", true),
            (r#""*""#, "acs:*:*:*:*", true),
            (put, "acs:oss:*:*:b/v/*", false),
            (put, "acs:oss:*:*:b", false),
            (put, "acs:oss:*:*:b/u/?", false),
            (put, "acs:oss:*:2:b/*", false),
            (r#""oss:putobject""#, "*", false),
            (r#""oss:GetObject""#, "*", false),
            (r#""*""#, "acs:ram:*:*:*", false),
        ] {
            let statement = one(action, resource);
            assert_eq!(allows(&statement, "b/u/a.txt"), expected, "{statement}");
        }
        let deny = one(put, "acs:oss:*:*:b/u/*").replace("Allow", "Deny");
        let both = format!("{deny},{}", one(put, "*"));
        assert!(allows(&both, "b/v/a") && !allows(&both, "b/u/a"));
        // A key with colons is one part of the resource.
        let all = one(put, "acs:oss:*:*:b/u/*");
        assert!(allows(&all, "b/u/a:b") && !allows(&all, "c/d:b/u/a"));
    }

    #[test]
    fn wildcards_take_as_much_as_they_need() {
        let good =
            [("", ""), ("*", ""), ("**", "a"), ("a*b*c", "aXbYbZc"), ("?", "ü"), ("a*", "a*")];
        for (pattern, text) in good {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("?", ""), ("a*b", "a"), ("a*b", "abc"), ("a?", "abc")] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
    }
}
