//! The callback after an upload: builds the signed request, sends it to one URL after the other,
//! records what came of it. Document: "Callback".

use std::time::Instant;

use crate::callback::{self, Answer, Callback, Outgoing, Signed, Transport, Variables};
use crate::error::OssError;
use crate::{CallbackRecord, Faults, Shared, digest, time};

/// The first answer that pleases OSS; else `CallbackFailed`, which is a 203.
pub fn run(
    shared: &Shared,
    callback: &Callback,
    variables: &Variables,
) -> Result<Answer, OssError> {
    let faults = shared.faults();
    let delay = faults.callback_delay;
    if let Some(message) = &faults.callback_fail {
        return Err(failed(message));
    }
    drop(faults);
    if !delay.is_zero() {
        shared.hold(Some(delay));
    }
    let mut last = ("no callback URL".to_string(), "0007-00000203");
    for url in &callback.urls {
        let (request, transport) = {
            let faults = shared.faults();
            let body = variables.fill(&callback.body, callback.json, faults.space_as_plus);
            let host = callback.host.as_deref().unwrap_or(&url.authority);
            let (target, kind) = (&url.target, callback.content_type());
            let id = &variables.request_id;
            let request = request(shared, &faults, target, host, body.into_bytes(), kind, id);
            let routes = faults.routes.clone();
            let (timeout, pause) = (faults.callback_timeout, faults.callback_pause);
            (request, Transport { timeout, pause, routes })
        };
        let begun = Instant::now();
        let (answer, result) = callback::send(url, callback.sni, &request, &transport);
        let record = CallbackRecord {
            request_id: variables.request_id.clone(),
            url: url.text.clone(),
            target: request.target.clone(),
            raw: [request.head(), request.body.clone()].concat(),
            headers: request.headers,
            body: request.body,
            status: answer.status,
            answer_headers: answer.headers.clone(),
            answer: answer.body.clone(),
            error: result.as_ref().err().map(|(message, _)| message.clone()),
            duration: begun.elapsed(),
        };
        let error = record.error.as_deref().unwrap_or("good");
        shared.say(format_args!("callback to {} -> {:?}, {error}", url.text, answer.status));
        shared.record(|state| state.callbacks.push(record));
        match result {
            Ok(()) => return Ok(answer),
            Err(error) => last = error,
        }
    }
    Err(failed(&last.0).ec(last.1))
}

/// A signed callback with the switches of `faults` applied.
pub fn request(
    shared: &Shared,
    faults: &Faults,
    target: &str,
    host: &str,
    body: Vec<u8>,
    content_type: &str,
    request_id: &str,
) -> Outgoing {
    let mut body = body;
    if let Some(tamper) = &faults.callback_tamper {
        body = tamper(body);
    }
    let authorization = shared.key.sign(target, &body, faults.path_decoding);
    if let Some(corrupt) = &faults.callback_corrupt {
        body = corrupt(body);
    }
    let signed = Signed {
        host,
        authorization,
        content_md5: digest::md5(&body),
        content_type,
        date: time::http_date(shared.now()),
        http10: faults.callback_http10,
        bucket: &shared.options.bucket,
        pub_key_url: &faults.pub_key_url,
        request_id,
        length: body.len(),
    };
    let mut headers = signed.headers();
    for (name, value) in &faults.callback_headers {
        match headers.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, old)) => *old = value.clone(),
            None => headers.push((name.clone(), value.clone())),
        }
    }
    let omitted = |name: &str| faults.callback_omit.iter().any(|o| o.eq_ignore_ascii_case(name));
    headers.retain(|(name, _)| !omitted(name));
    let target = target.to_string();
    Outgoing { target, headers, body, http10: faults.callback_http10, case: faults.header_case }
}

fn failed(message: &str) -> OssError {
    OssError::new(203, "CallbackFailed", message)
}
