//! RAM policies, of a key, a role or a session: what a credential may do. Documents: RAM's "Policy structure
//! and syntax", and OSS's "RAM policy" for actions and resources. Narrower than the real one: no
//! `NotAction`, `NotResource` or `Condition`, which count as bad grammar here.

use serde_json::{Map, Value};

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

/// `*` stands for any characters, `?` for one; no character is special in `text`.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on when a comparison fails: behind the last `*`, which then takes one more.
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(known) if *known == '?' || *known == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star, taken)) = retry else { return false };
                retry = Some((star, taken + 1));
                (p, t) = (star, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(text: &str) -> Option<SessionPolicy> {
        SessionPolicy::parse(&format!("{{\"Version\":\"1\",\"Statement\":[{text}]}}"))
    }

    #[test]
    fn documents_that_are_no_policies() {
        let good = "{\"Effect\":\"Allow\",\"Action\":\"oss:PutObject\",\"Resource\":[\"*\"]}";
        assert!(statements(good).is_some());
        let outside =
            ["", "[]", "{}", "{\"Version\":\"1\"}", "{\"Version\":\"1\",\"Statement\":{}}"];
        for text in outside {
            assert_eq!(SessionPolicy::parse(text), None, "{text}");
        }
        for version in ["\"2\"", "1", "\"2012-10-17\""] {
            let text = format!("{{\"Version\":{version},\"Statement\":[{good}]}}");
            assert_eq!(SessionPolicy::parse(&text), None, "{text}");
        }
        let more = format!("{{\"Version\":\"1\",\"Statement\":[{good}],\"Id\":\"a\"}}");
        assert_eq!(SessionPolicy::parse(&more), None);
        for text in [
            "",
            "1",
            "{\"Effect\":\"Allow\",\"Action\":\"*\"}",
            "{\"Effect\":\"Allow\",\"Resource\":\"*\"}",
            "{\"Action\":\"*\",\"Resource\":\"*\"}",
            "{\"Effect\":\"allow\",\"Action\":\"*\",\"Resource\":\"*\"}",
            "{\"Effect\":\"Allow\",\"Action\":[],\"Resource\":\"*\"}",
            "{\"Effect\":\"Allow\",\"Action\":\"\",\"Resource\":\"*\"}",
            "{\"Effect\":\"Allow\",\"Action\":\"PutObject\",\"Resource\":\"*\"}",
            "{\"Effect\":\"Allow\",\"Action\":\"*\",\"Resource\":[1]}",
            "{\"Effect\":\"Allow\",\"Action\":\"*\",\"Resource\":\"bucket/*\"}",
            "{\"Effect\":\"Allow\",\"Action\":\"*\",\"Resource\":\"acs:oss:*:bucket/*\"}",
            "{\"Effect\":\"Allow\",\"Action\":\"*\",\"Resource\":\"arn:oss:*:*:bucket/*\"}",
            "{\"Effect\":\"Allow\",\"Action\":\"*\",\"Resource\":\"*\",\"Condition\":{}}",
        ] {
            assert_eq!(statements(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_allowed() {
        let one = |action: &str, resource: &str| {
            format!("{{\"Effect\":\"Allow\",\"Action\":[{action}],\"Resource\":\"{resource}\"}}")
        };
        let put = "\"oss:PutObject\"";
        let cases = [
            (one(put, "acs:oss:*:*:b/u/*"), true),
            (one(put, "acs:oss:*:*:b/u/?.txt"), true),
            (one(put, "acs:oss:oss-r:1:b/u/a.txt"), true),
            (one("\"oss:GetObject\",\"oss:Put*\"", "*"), true),
            (one("\"*\"", "acs:*:*:*:*"), true),
            (one(put, "acs:oss:*:*:b/v/*"), false),
            (one(put, "acs:oss:*:*:b"), false),
            (one(put, "acs:oss:*:*:b/u/?"), false),
            (one(put, "acs:oss:*:2:b/*"), false),
            (one("\"oss:putobject\"", "*"), false),
            (one("\"oss:GetObject\"", "*"), false),
            (one("\"*\"", "acs:ram:*:*:*"), false),
        ];
        for (text, expected) in cases {
            let policy = statements(&text).unwrap();
            assert_eq!(
                policy.allows("oss:PutObject", "acs:oss:oss-r:1:b/u/a.txt"),
                expected,
                "{text}"
            );
        }
        let deny = one(put, "acs:oss:*:*:b/u/*").replace("Allow", "Deny");
        let policy = statements(&format!("{deny},{}", one(put, "*"))).unwrap();
        assert!(policy.allows("oss:PutObject", "acs:oss:oss-r:1:b/v/a"));
        assert!(!policy.allows("oss:PutObject", "acs:oss:oss-r:1:b/u/a"));
        // A key with colons is one part of the resource.
        let policy = statements(&one(put, "acs:oss:*:*:b/u/*")).unwrap();
        assert!(policy.allows("oss:PutObject", "acs:oss:oss-r:1:b/u/a:b"));
        assert!(!policy.allows("oss:PutObject", "acs:oss:oss-r:1:c/d:b/u/a"));
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
