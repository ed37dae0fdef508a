//! PostObject from the first field to the answer. Document: "PostObject".

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;

use crate::access::{self, Signer};
use crate::callback::{Callback, Variables};
use crate::digest::{Checksums, base64, hex, percent_encode};
use crate::error::{OssError, escape};
use crate::form::{self, FormError, Parser};
use crate::http::{Body, Head, Reply};
use crate::policy::{Fields, Policy};
use crate::server::error_reply;
use crate::{Object, PostFault, PostRecord, Shared, image, names, notify};

/// "PostObject": an upload holds at most 5 GB.
const MAX_OBJECT_BYTES: u64 = 5 << 30;

enum Stop {
    Oss(OssError),
    /// the connection broke, or a fault broke it
    Io(io::Error),
}

impl From<OssError> for Stop {
    fn from(error: OssError) -> Stop {
        Stop::Oss(error)
    }
}

impl From<FormError> for Stop {
    fn from(error: FormError) -> Stop {
        match error {
            FormError::Io(error) => Stop::Io(error),
            FormError::Malformed(why) => {
                let message =
                    "The body of your POST request is not well-formed multipart/form-data";
                let error =
                    OssError::new(400, "MalformedPOSTRequest", format!("{message}: {why}."));
                Stop::Oss(error.ec("0006-00000104"))
            }
        }
    }
}

/// `None`: the connection is to be closed without an answer.
pub fn post_object(
    shared: &Shared,
    stream: &TcpStream,
    head: &Head,
    request_id: &str,
) -> io::Result<Option<Reply>> {
    let fault = shared.faults().posts.pop_front().unwrap_or(PostFault::Pass);
    let mut record = PostRecord {
        request_id: request_id.to_string(),
        headers: head.headers.clone(),
        ..PostRecord::default()
    };
    let (length, no_length) = match head.content_length() {
        Ok(Some(length)) => (length, false),
        _ => (0, true),
    };
    let mut body = Body::new(stream, length);
    match fault {
        PostFault::Reset(bytes) => body.stop_after(bytes, |stream| {
            // Closing a socket with something unread resets it: wait until something is there.
            stream.peek(&mut [0])?;
            Err(io::ErrorKind::ConnectionReset.into())
        }),
        PostFault::Stall(bytes, limit) => body.stop_after(bytes, move |_| {
            shared.hold(limit);
            Ok(())
        }),
        _ => {}
    }
    let result = match &fault {
        PostFault::Answer(status, code) => {
            Err(OssError::new(*status, code, "Broken on purpose.").into())
        }
        _ if no_length => {
            let message = "You must provide the Content-Length HTTP header.";
            Err(OssError::new(411, "MissingContentLength", message).into())
        }
        _ => receive(shared, head, &mut body, &mut record),
    };
    let result = match result {
        Err(Stop::Io(error)) => Err(Stop::Io(error)),
        result => body.drain().map_err(Stop::Io).and(result),
    };
    let result = result.and_then(|upload| Ok(store(shared, stream, upload, &record)?));
    let reply = match result {
        Ok(reply) => Some(reply),
        Err(Stop::Oss(error)) => {
            record.code = error.code.clone();
            record.message = error.message.clone();
            record.ec = error.ec.map(str::to_string);
            Some(error_reply(shared, &error, request_id))
        }
        Err(Stop::Io(error)) => {
            record.message = error.to_string();
            None
        }
    };
    let reply = reply.filter(|_| fault != PostFault::NoAnswer);
    record.status = reply.as_ref().map_or(0, |reply| reply.status);
    let outcome = format!("{} {} {}", record.status, record.code, record.message);
    let (key, size) = (&record.key, record.size);
    shared.say(format_args!("POST {key:?}, {size} bytes -> {}", outcome.trim_end()));
    shared.record(|state| state.posts.push(record));
    // Without a length nobody knows where the next request begins.
    if no_length {
        if let Some(reply) = &reply {
            reply.write(stream, true, false)?;
        }
        return Ok(None);
    }
    Ok(reply)
}

/// A form that may be stored.
struct Upload {
    fields: Fields,
    content_type: String,
    callback: Option<Callback>,
    bytes: Vec<u8>,
    md5: [u8; 16],
    crc64: u64,
}

fn receive(
    shared: &Shared,
    head: &Head,
    body: &mut Body,
    record: &mut PostRecord,
) -> Result<Upload, Stop> {
    let boundary = form::boundary(head.header("content-type").unwrap_or("")).ok_or_else(|| {
        let message = "Bucket POST must be of the enclosure-type multipart/form-data.";
        OssError::new(400, "RequestIsNotMultiPartContent", message)
    })?;
    let boundary = boundary.ok_or(FormError::Malformed("no boundary in the content-type"))?;
    let mut parser = Parser::new(body, &boundary);
    read_fields(&mut parser, record)?;
    let fields = Fields(record.fields.clone());
    let range = permit(shared, &fields, record)?;
    let callback = match fields.get("callback") {
        Some(callback) if !callback.is_empty() => Some(Callback::parse(callback)?),
        _ => None,
    };
    if let (Some(callback), false) = (&callback, shared.options.private_callbacks) {
        names::check_callback(&callback.urls)?;
    }
    let mut bytes = Vec::new();
    let mut sums = Checksums::default();
    let most = range.1.min(MAX_OBJECT_BYTES);
    let result = parser.read_content(|chunk| {
        record.size += chunk.len() as u64;
        if record.size <= most {
            sums.update(chunk);
            bytes.extend_from_slice(chunk);
        } else {
            bytes = Vec::new(); // refused already: only its size still counts
        }
    });
    result?;
    fits(record.size, range.0, most)?;
    let content_type = fields.get("content-type").filter(|text| !text.is_empty());
    let content_type = content_type.or(Some(&record.file_type)).filter(|text| !text.is_empty());
    let content_type = content_type.unwrap_or("application/octet-stream").to_string();
    let (md5, crc64) = sums.finish();
    Ok(Upload { fields, content_type, callback, bytes, md5, crc64 })
}

/// Reads up to the content of the file; what comes behind the file is never looked at.
fn read_fields<R: Read>(parser: &mut Parser<R>, record: &mut PostRecord) -> Result<(), Stop> {
    let mut total = 0;
    loop {
        let part = parser.next_part()?.ok_or(FormError::Malformed("no file"))?;
        if part.name.eq_ignore_ascii_case("file") {
            record.filename = part.filename.unwrap_or_default();
            record.file_type = part.content_type.unwrap_or_default();
            return Ok(());
        }
        let mut value = Vec::new();
        parser.read_content(|chunk| {
            total += chunk.len();
            if total <= form::MAX_FIELDS_BYTES {
                value.extend_from_slice(chunk);
            }
        })?;
        if total > form::MAX_FIELDS_BYTES {
            let message = "Your POST request fields preceding the upload file were too large.";
            let error = OssError::new(400, "MaxPOSTPreDataLengthExceededError", message);
            return Err(error.ec("0006-00000112").into());
        }
        let value = String::from_utf8(value).map_err(|_| match part.name.as_str() {
            "key" => Stop::Oss(names::foreign_key()),
            _ => FormError::Malformed("a field not in UTF-8").into(),
        })?;
        let doubled = record.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case(&part.name));
        record.fields.push((part.name.clone(), value));
        if doubled {
            // Which of the two would count is not documented: no test shall depend on it.
            let error = OssError::argument(format!("The field '{}' is given twice.", part.name));
            return Err(error.with("ArgumentName", part.name).into());
        }
    }
}

/// Everything that can be refused before the file is read; gives the sizes that the policy allows.
fn permit(
    shared: &Shared,
    fields: &Fields,
    record: &mut PostRecord,
) -> Result<(u64, u64), OssError> {
    let key = fields.get("key").ok_or_else(|| {
        OssError::argument(
            "Bucket POST must contain a field named 'key'. If it is specified, please check the \
             order of the fields.",
        )
        .with("ArgumentName", "key")
    })?;
    let now = shared.now();
    let refuse_v1 = shared.faults().refuse_v1;
    let issued = shared.state().issued.clone();
    let (signer, access_key) = access::form(fields, &shared.options, &issued, refuse_v1, now)?;
    let policy = Policy::parse(fields.get("policy").unwrap_or(""))?;
    policy.check(fields, &shared.options.bucket, signer == Signer::V4, now)?;
    // "PostObject", key: the variable is replaced when the policy has been checked.
    record.key = key.replace("${filename}", &record.filename);
    names::check_key(&record.key)?;
    access::authorize(&access_key, "oss:PutObject", &record.key, &shared.options)?;
    let choice = |name: &'static str, known: &[&str]| match fields.get(name) {
        Some(value) if !known.contains(&value) => {
            Err(OssError::argument(format!("Invalid value of {name}.")).with("ArgumentName", name))
        }
        _ => Ok(()),
    };
    choice("x-oss-forbid-overwrite", &["true", "false"])
        .map_err(|error| error.ec("0006-00000117"))?;
    choice("x-oss-object-acl", &["default", "private", "public-read", "public-read-write"])?;
    Ok(policy.length_range())
}

/// "PostObject": `content-length-range` includes both ends.
fn fits(size: u64, least: u64, most: u64) -> Result<(), OssError> {
    if size > most {
        let message = "Your proposed upload exceeds the maximum allowed size.";
        let error = OssError::new(400, "EntityTooLarge", message).ec("0006-00000003");
        return Err(error.with("MaxSizeAllowed", most).with("ProposedSize", size));
    }
    if size < least {
        let message = "Your proposed upload is smaller than the minimum allowed size.";
        let error = OssError::new(400, "EntityTooSmall", message).ec("0006-00000004");
        return Err(error.with("MinSizeAllowed", least).with("ProposedSize", size));
    }
    Ok(())
}

/// Stores the object, then calls back: a callback that fails leaves the object where it is.
fn store(
    shared: &Shared,
    stream: &TcpStream,
    upload: Upload,
    record: &PostRecord,
) -> Result<Reply, OssError> {
    let fields = &upload.fields;
    let etag = hex(&upload.md5).to_ascii_uppercase();
    let kept = ["cache-control", "content-disposition", "content-encoding", "expires"];
    let headers = fields.0.iter().filter(|(name, _)| {
        let name = name.to_ascii_lowercase();
        name.starts_with("x-oss-meta-") || kept.contains(&name.as_str())
    });
    let image = image::read(&upload.bytes);
    let object = Object {
        bytes: Arc::new(upload.bytes),
        content_type: upload.content_type.clone(),
        etag: etag.clone(),
        crc64: upload.crc64,
        acl: fields.get("x-oss-object-acl").map(str::to_string),
        headers: headers.cloned().collect(),
    };
    let key = &record.key;
    {
        let mut state = shared.state();
        let forbidden = fields.get("x-oss-forbid-overwrite") == Some("true");
        if forbidden && state.objects.contains_key(key) {
            let message = "The object you specified already exists and can not be overwritten.";
            return Err(OssError::new(409, "FileAlreadyExists", message).ec("0026-00000002"));
        }
        state.objects.insert(key.clone(), object);
    }
    shared.say(format_args!("stored {key}, {} bytes, {}", record.size, upload.content_type));
    let stored = |status| {
        Reply::new(status)
            .header("ETag", format!("\"{etag}\""))
            .header("x-oss-hash-crc64ecma", upload.crc64)
            .header("Content-MD5", base64(&upload.md5))
    };
    if let Some(callback) = &upload.callback {
        let custom = fields.0.iter().filter(|(name, _)| {
            name.starts_with("x:") && !name.bytes().any(|byte| byte.is_ascii_uppercase())
        });
        let variables = Variables {
            bucket: shared.options.bucket.clone(),
            object: key.clone(),
            etag: etag.clone(),
            size: record.size,
            mime_type: upload.content_type.clone(),
            image,
            crc64: upload.crc64,
            content_md5: base64(&upload.md5),
            client_ip: stream.peer_addr().map_or(String::new(), |peer| peer.ip().to_string()),
            request_id: record.request_id.clone(),
            custom: custom.cloned().collect(),
        };
        let answer = notify::run(shared, callback, &variables)?;
        let content_type = answer.content_type().to_string();
        return Ok(stored(200).body(&content_type, answer.body));
    }
    Ok(match fields.get("success_action_status") {
        Some("200") => stored(200),
        Some("201") => stored(201).body("application/xml", created(shared, key, &etag)),
        _ => stored(204),
    })
}

/// "PostObject", `success_action_status` 201.
fn created(shared: &Shared, key: &str, etag: &str) -> String {
    let (bucket, host) = (&shared.options.bucket, shared.options.host());
    let location = format!("http://{host}/{}", percent_encode(key, b"/"));
    let key = escape(key);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<PostResponse>\n  \
         <Bucket>{bucket}</Bucket>\n  <Location>{location}</Location>\n  \
         <Key>{key}</Key>\n  <ETag>\"{etag}\"</ETag>\n\
         </PostResponse>\n"
    )
}
