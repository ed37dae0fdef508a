//! The callback after an upload: builds the signed request, sends it to one URL after the other,
//! records what came of it. Document: "Callback".

use std::time::Instant;

use serde_json::Value;

use crate::callback::{self, Callback};
use crate::digest::base64;
use crate::error::OssError;
use crate::{CallbackRecord, Faults, Shared, digest, time};

/// The first answer that pleases OSS; else `CallbackFailed`, which is a 203.
pub fn run(
    shared: &Shared,
    callback: &Callback,
    variables: &Value,
    request_id: &str,
) -> Result<CallbackRecord, OssError> {
    let faults = shared.faults();
    let delay = faults.callback_delay;
    if let Some(message) = &faults.callback_fail {
        return Err(callback::failed("", message));
    }
    drop(faults);
    if !delay.is_zero() {
        shared.hold(Some(delay));
    }
    let mut last = callback::failed("", "no callback URL");
    for url in &callback.urls {
        let faults = shared.faults();
        let plus = faults.space_as_plus;
        let body = callback::fill(&callback.body, callback.json, plus, variables).into_bytes();
        let host = callback.host.as_deref().unwrap_or(&url.authority);
        let kind = callback.content_type();
        let mut record = request(shared, &faults, &url.target, host, body, kind, request_id);
        let (timeout, routes) = (faults.callback_timeout, faults.routes.clone());
        drop(faults);
        record.url = url.text.clone();
        let begun = Instant::now();
        let result = callback::send(url, callback.sni, timeout, &routes, &mut record);
        record.duration = begun.elapsed();
        record.error = result.as_ref().err().map(|error| error.message.clone());
        let error = record.error.as_deref().unwrap_or("good");
        shared.say(format_args!("callback to {} -> {:?}, {error}", url.text, record.status));
        shared.record(|state| state.callbacks.push(record.clone()));
        match result {
            Ok(()) => return Ok(record),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A signed callback with the switches of `faults` applied, to be sent: the headers of a real one,
/// in the order of "Callback", step 3, and of captures.
pub fn request(
    shared: &Shared,
    faults: &Faults,
    target: &str,
    host: &str,
    mut body: Vec<u8>,
    content_type: &str,
    request_id: &str,
) -> CallbackRecord {
    if let Some(tamper) = &faults.callback_tamper {
        body = tamper(body);
    }
    let authorization = shared.key.sign(target, &body, faults.path_decoding);
    if let Some(corrupt) = &faults.callback_corrupt {
        body = corrupt(body);
    }
    // The user agents of captures of 2015 and of today.
    let (version, agent) = match faults.callback_http10 {
        true => ("1.0", "ehttp-client/0.0.1"),
        false => ("1.1", "aliyun-oss-callback"),
    };
    let headers = [
        ("host", host),
        ("connection", "close"),
        ("content-length", &body.len().to_string()),
        ("authorization", &authorization),
        ("content-md5", &base64(&digest::md5(&body))),
        ("content-type", content_type),
        ("date", &time::http_date(shared.now())),
        ("user-agent", agent),
        ("x-oss-additional-headers", ""),
        ("x-oss-bucket", &shared.options.bucket),
        ("x-oss-owner", "1234567890123456"),
        ("x-oss-pub-key-url", &base64(faults.pub_key_url.as_bytes())),
        ("x-oss-request-id", request_id),
        ("x-oss-requester", "1234567890123456"),
        ("x-oss-signature-version", "1.0"),
        ("x-oss-tag", "CALLBACK"),
    ];
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_string()));
    let mut head = format!("POST {target} HTTP/{version}\r\n");
    for (name, value) in &headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    CallbackRecord {
        request_id: request_id.to_string(),
        target: target.to_string(),
        raw: [head.as_bytes(), b"\r\n", &body].concat(),
        headers: headers.to_vec(),
        body,
        ..CallbackRecord::default()
    }
}
