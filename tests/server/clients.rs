//! The request logic of the kinds of client that are written from Alibaba's samples, each against a
//! server with a lasting key and one with a role, with and without a callback: what works is the
//! table at the end of `static/README.md`, which this makes.

use oss_standin::Source;
use serde_json::Value;
use support::documents::text;
use support::world::{Site, V1, V4, borrowed, policy};
use support::{Reply, Server, post_form, request};

/// How a client writes its form.
enum Form {
    /// As a browser's `FormData`.
    Data,
    /// As mini programs and phones do: another boundary, a `Content-Type` for each field.
    ByHand,
    /// With the name in the key percent-encoded, or the whole key.
    EncodedName,
    EncodedKey,
}
use Form::{ByHand, Data, EncodedKey, EncodedName};

/// What a client posts beside its key, a field each. `field=name` is what the answer has under that
/// name, and `undefined` if it has none, as in JavaScript; `field?=name` is posted if there is any;
/// `field:text` is posted as it stands.
const OLD: &str = "OSSAccessKeyId=accessid policy=policy signature=signature \
                   success_action_status:200";
const ANTD: &str = "OSSAccessKeyId=accessId policy=policy Signature=signature";
const NEW: &str = "success_action_status:200 policy=policy x-oss-signature=signature \
                   x-oss-signature-version=x_oss_signature_version \
                   x-oss-credential=x_oss_credential x-oss-date=x_oss_date";
const JAVA: &str = "success_action_status:200 policy=policy x-oss-signature=signature \
                    x-oss-signature-version=version x-oss-credential=x_oss_credential \
                    x-oss-date=x_oss_date";

const CALLBACK: &str = "callback=callback";
const CALLBACK_IF: &str = "callback?=callback";
const TOKEN: &str = "x-oss-security-token=security_token";
const TOKEN_IF: &str = "x-oss-security-token?=security_token";
const OTHER_TOKEN_IF: &str = "x-oss-security-token?=x-oss-security-token";
/// All of `fields`, whatever they are.
const ALL: &str = "fields";

/// Name, where it asks, form, fields.
type Kind = (&'static str, &'static str, Form, &'static [&'static str]);

const KINDS: [Kind; 16] = [
    ("V1, no `callback`", V1, Data, &[OLD]),
    ("V1, no `callback`, reads `accessId`", V1, Data, &[ANTD]),
    ("V1 with `callback`", V1, Data, &[OLD, CALLBACK]),
    ("V1 with `callback`, form by hand", V1, ByHand, &[OLD, CALLBACK]),
    ("V1 with `callback`, name percent-encoded", V1, EncodedName, &[OLD, CALLBACK]),
    ("V1 with `callback`, whole key percent-encoded", V1, EncodedKey, &[OLD, CALLBACK]),
    ("V1 with `callback` and the token if there is one", V1, Data, &[OLD, CALLBACK, TOKEN_IF]),
    ("V1 with the token if there is one", V1, Data, &[OLD, OTHER_TOKEN_IF]),
    ("V4, always with a token", V4, Data, &[NEW, TOKEN]),
    ("V4, always with a token, and `callback`", V4, Data, &[NEW, TOKEN, CALLBACK]),
    ("V4, always with a token, and `callback`, form by hand", V4, ByHand, &[NEW, TOKEN, CALLBACK]),
    ("V4, reads `version`, always with a token", V4, Data, &[JAVA, TOKEN]),
    ("V4 without a token", V4, Data, &[NEW]),
    ("V4 without a token, with `callback`", V4, Data, &[NEW, CALLBACK]),
    ("V4 with token and `callback` if there are any", V4, Data, &[NEW, TOKEN_IF, CALLBACK_IF]),
    ("all of `fields` (`upload.js`, `fetch`, Uppy)", V4, Data, &[ALL]),
];

/// The form's fields as the client makes them of an answer.
fn fields(answer: &Value, (_, _, form, specs): &Kind) -> Vec<(String, String)> {
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    let dir = text("dir");
    let key = match form {
        Data | ByHand => format!("{dir}a.txt"),
        EncodedName => format!("{dir}%E4%B8%AD.txt"),
        EncodedKey => format!("{}%2Fa.txt", dir.trim_end_matches('/')),
    };
    let key = ("key".to_owned(), key);
    if specs[0] == ALL {
        let all = answer["fields"].as_object().unwrap().iter();
        let others = all.filter(|(name, _)| *name != "key");
        let others = others.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
        return std::iter::once(key).chain(others).collect();
    }
    let mut fields = vec![key];
    for spec in specs.join(" ").split_whitespace() {
        if let Some((field, name)) = spec.split_once("?=") {
            let value = text(name);
            fields.extend((!value.is_empty()).then(|| (field.to_owned(), value)));
        } else if let Some((field, name)) = spec.split_once('=') {
            let value = answer[name].as_str().unwrap_or("undefined");
            fields.push((field.to_owned(), value.to_owned()));
        } else {
            let (field, value) = spec.split_once(':').unwrap();
            fields.push((field.to_owned(), value.to_owned()));
        }
    }
    fields
}

fn post_by_hand(url: &str, fields: &[(&str, &str)], bytes: &[u8]) -> Reply {
    let boundary = "WABoundary+1A2B3C4D";
    let mut body = Vec::new();
    for (name, value) in fields {
        let head = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\
             Content-Type: text/plain; charset=UTF-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        );
        body.extend_from_slice(format!("{head}{value}\r\n").as_bytes());
    }
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(bytes);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let content_type = format!("multipart/form-data;boundary=\"{boundary}\"");
    let address = url.strip_prefix("http://").unwrap().parse().unwrap();
    request(address, "POST", "/", &[("content-type", &content_type)], &body)
}

/// What comes of an upload by this kind of client: `yes` means that the object is there with its
/// bytes, and its callback was verified where one is configured.
fn outcome(site: &Site, server: &Server, has_callback: bool, kind: &Kind) -> String {
    const BYTES: &[u8] = b"hello";
    let bucket = &site.bucket;
    let (_, contract, form, _) = kind;
    let answer = policy(server.address, contract, &[]);
    let fields = fields(&answer, kind);
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let host = answer["host"].as_str().unwrap();
    let before = bucket.callbacks().len();
    let reply = match form {
        ByHand => post_by_hand(host, &fields, BYTES),
        _ => post_form(host, &fields, ("a.txt", "text/plain", BYTES)),
    };
    let (_, key) = fields[0];
    let object = bucket.object(key);
    bucket.remove(key);
    if reply.status >= 300 {
        assert!(object.is_none() && bucket.callbacks().len() == before);
        return format!("{} `{}`", reply.status, reply.element("Code").unwrap_or_default());
    }
    assert!(object.is_some_and(|object| object.bytes[..] == *BYTES), "{}: {reply:?}", kind.0);
    assert_eq!(bucket.callbacks().len() - before, usize::from(has_callback), "{}", kind.0);
    if has_callback {
        assert_eq!((reply.status, &*reply.text()), (200, r#"{"Status":"OK"}"#), "{}", kind.0);
    }
    "yes".to_owned()
}

/// samples: clients of both contracts (V1, V4), with and without a security token and a callback.
#[test]
fn the_table_of_clients_is_what_works() {
    let mut columns = Vec::new();
    for role in [false, true] {
        for has_callback in [false, true] {
            let site = Site::new(&[("CALLBACK_TOKEN", "on")]);
            let mut vars = Vec::new();
            if role {
                vars = site.bucket.role_vars(Source::Sts);
            }
            if !has_callback {
                vars.push(("CALLBACK_URL", String::new()));
            }
            let server = site.start(&borrowed(&vars));
            if role {
                server.wait_log(" credentials: ");
            }
            columns.push(KINDS.map(|kind| outcome(&site, &server, has_callback, &kind)));
        }
    }
    let mut table = "| client | lasting key | lasting key, callback | role | role, callback |\n\
                     |---|---|---|---|---|\n"
        .to_owned();
    for (at, (name, ..)) in KINDS.iter().enumerate() {
        let cells: Vec<&str> = columns.iter().map(|column| column[at].as_str()).collect();
        table += &format!("| {name} | {} |\n", cells.join(" | "));
    }
    let document = text("static/README.md");
    assert!(document.contains(&table), "static/README.md should have this table:\n{table}");
}
