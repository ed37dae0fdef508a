//! PostObject from the first field to the answer. Document: "PostObject".

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::ops::Range;

use serde_json::json;

use crate::callback::Callback;
use crate::digest::{base64, percent_encode_path};
use crate::error::{OssError, escape};
use crate::form::{self, Parser};
use crate::http::{Body, Head, Reply, header};
use crate::policy::Policy;
use crate::server::error_reply;
use crate::{Object, PostFault, PostRecord, Shared, access, image, names, notify};

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

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        if error.kind() != ErrorKind::InvalidData {
            return Stop::Io(error);
        }
        let message = "The body of your POST request is not well-formed multipart/form-data";
        let message = format!("{message}: {error}.");
        Stop::Oss(OssError::new(400, "MalformedPOSTRequest", message).ec("0006-00000104"))
    }
}

/// A request on its way.
struct Post<'a> {
    shared: &'a Shared,
    record: PostRecord,
}

/// `None`: the connection is to be closed without an answer.
pub fn post_object(
    shared: &Shared,
    stream: &TcpStream,
    head: &Head,
    request_id: &str,
) -> io::Result<Option<Reply>> {
    let fault = shared.faults().posts.pop_front().unwrap_or(PostFault::Pass);
    let (request_id, headers) = (request_id.to_string(), head.headers.clone());
    let record = PostRecord { request_id, headers, ..PostRecord::default() };
    let mut post = Post { shared, record };
    let no_length = head.content_length().is_none();
    let mut body = Body::new(stream, head)?;
    match fault {
        PostFault::Reset(bytes) => body.stop_after(bytes, |stream| {
            // Closing a socket with something unread resets it: wait until something is there.
            stream.peek(&mut [0])?;
            Err(ErrorKind::ConnectionReset.into())
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
        _ => post.receive(head, &mut body),
    };
    let result = match result {
        Err(Stop::Io(error)) => Err(Stop::Io(error)),
        result => body.drain().map_err(Stop::Io).and(result),
    };
    let result = result.and_then(|upload| Ok(post.store(stream, upload)?));
    let Post { mut record, .. } = post;
    let reply = match result {
        Ok(reply) => Some(reply),
        Err(Stop::Oss(error)) => {
            let reply = error_reply(shared, &error, &record.request_id);
            (record.code, record.message) = (error.code, error.message);
            record.ec = Some(error.ec.to_string()).filter(|ec| !ec.is_empty());
            Some(reply)
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
    Ok(reply.map(|reply| Reply { close: no_length, ..reply }))
}

/// A form that may be stored.
struct Upload {
    callback: Option<Callback>,
    object: Object,
    md5: [u8; 16],
}

impl Post<'_> {
    fn field(&self, name: &str) -> Option<&str> {
        header(&self.record.fields, name)
    }

    fn receive(&mut self, head: &Head, body: &mut Body) -> Result<Upload, Stop> {
        let message = "Bucket POST must be of the enclosure-type multipart/form-data.";
        let boundary = form::boundary(head.header("content-type").unwrap_or(""));
        let boundary =
            boundary.ok_or(OssError::new(400, "RequestIsNotMultiPartContent", message))?;
        let boundary = boundary.ok_or(form::malformed("no boundary in the content-type"))?;
        let mut parser = Parser::new(body, boundary);
        self.read_fields(&mut parser)?;
        let (least, most) = self.permit()?;
        let callback = self.field("callback").filter(|callback| !callback.is_empty());
        let callback = callback.map(Callback::parse).transpose()?;
        if let (Some(callback), false) = (&callback, self.shared.options.private_callbacks) {
            names::check_callback(&callback.urls)?;
        }
        let content = parser.content();
        self.record.size = content.as_ref().map_or(parser.arrived(), Range::len) as u64;
        let content = content?;
        fits(self.record.size, least, most.min(MAX_OBJECT_BYTES))?;
        let mut bytes = parser.bytes;
        bytes.truncate(content.end);
        bytes.drain(..content.start);
        let types = [self.field("content-type"), Some(&self.record.file_type)];
        let content_type = types.into_iter().flatten().find(|text| !text.is_empty());
        let (mut object, md5) =
            Object::new(bytes, content_type.unwrap_or("application/octet-stream"));
        object.acl = self.field("x-oss-object-acl").map(str::to_string);
        let kept = ["cache-control", "content-disposition", "content-encoding", "expires"];
        for (name, value) in &self.record.fields {
            let lower = name.to_ascii_lowercase();
            if lower.starts_with("x-oss-meta-") || kept.contains(&lower.as_str()) {
                object.headers.push((name.clone(), value.clone()));
            }
        }
        Ok(Upload { callback, object, md5 })
    }

    /// Reads up to the content of the file; what comes behind the file is never looked at.
    fn read_fields<R: Read>(&mut self, parser: &mut Parser<R>) -> Result<(), Stop> {
        let record = &mut self.record;
        let mut total = 0;
        loop {
            let part = parser.next_part()?.ok_or(form::malformed("no file"))?;
            if part.name.eq_ignore_ascii_case("file") {
                record.filename = part.filename.unwrap_or_default();
                record.file_type = part.content_type.unwrap_or_default();
                return Ok(());
            }
            let value = parser.content()?;
            total += value.len();
            if total > form::MAX_FIELDS_BYTES {
                let message = "Your POST request fields preceding the upload file were too large.";
                let error = OssError::new(400, "MaxPOSTPreDataLengthExceededError", message);
                return Err(error.ec("0006-00000112").into());
            }
            let value = String::from_utf8(parser.bytes[value].to_vec());
            let value = value.map_err(|_| match part.name.as_str() {
                "key" => Stop::Oss(names::foreign_key()),
                _ => form::malformed("a field not in UTF-8").into(),
            })?;
            let doubled =
                record.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case(&part.name));
            record.fields.push((part.name.clone(), value));
            if doubled {
                // Which of the two would count is not documented: no test shall depend on it.
                let message = format!("The field '{}' is given twice.", part.name);
                return Err(OssError::argument("", message).with("ArgumentName", part.name).into());
            }
        }
    }

    /// Everything that can be refused before the file is read; gives the sizes that the policy
    /// allows.
    fn permit(&mut self) -> Result<(u64, u64), OssError> {
        let Post { shared, record } = self;
        let field = |name: &str| header(&record.fields, name);
        let message = "Bucket POST must contain a field named 'key'. If it is specified, please \
                       check the order of the fields.";
        let missing = OssError::argument("", message).with("ArgumentName", "key");
        let key = field("key").ok_or(missing)?;
        let (v4, access_key) = access::form(shared, &record.fields)?;
        let policy = Policy::parse(field("policy").unwrap_or(""))?;
        policy.check(&record.fields, &shared.options.bucket, v4, shared.now())?;
        // "PostObject", key: the variable is replaced when the policy has been checked.
        record.key = key.replace("${filename}", &record.filename);
        names::check_key(&record.key)?;
        access::authorize(shared, &access_key, "oss:PutObject", &record.key)?;
        let acls = ["default", "private", "public-read", "public-read-write"];
        for (name, ec, known) in [
            ("x-oss-forbid-overwrite", "0006-00000117", &["true", "false"][..]),
            ("x-oss-object-acl", "", &acls),
        ] {
            if field(name).is_some_and(|value| !known.contains(&value)) {
                let error = OssError::argument(ec, format!("Invalid value of {name}."));
                return Err(error.with("ArgumentName", name));
            }
        }
        Ok(policy.sizes)
    }

    /// Stores the object, then calls back: a callback that fails leaves the object where it is.
    fn store(&self, stream: &TcpStream, upload: Upload) -> Result<Reply, OssError> {
        let (Post { shared, record }, Upload { callback, object, md5 }) = (self, upload);
        let Object { etag, crc64, content_type, .. } = object.clone();
        let (key, content_md5) = (&record.key, base64(&md5));
        let image = image::read(&object.bytes);
        {
            let mut state = shared.state();
            let forbidden = self.field("x-oss-forbid-overwrite") == Some("true");
            if forbidden && state.objects.contains_key(key) {
                let message = "The object you specified already exists and can not be overwritten.";
                return Err(OssError::new(409, "FileAlreadyExists", message).ec("0026-00000002"));
            }
            state.objects.insert(key.clone(), object);
        }
        shared.say(format_args!("stored {key}, {} bytes, {content_type}", record.size));
        let stored = |status| {
            Reply::new(status)
                .header("ETag", format!("\"{etag}\""))
                .header("x-oss-hash-crc64ecma", crc64)
                .header("Content-MD5", &content_md5)
        };
        if let Some(callback) = &callback {
            let mut variables = json!({
                "bucket": shared.options.bucket,
                "object": key,
                "etag": etag,
                "size": record.size,
                "mimeType": content_type,
                "imageInfo.height": image.as_ref().map(|image| image.height),
                "imageInfo.width": image.as_ref().map(|image| image.width),
                "imageInfo.format": image.as_ref().map(|image| image.format),
                "crc64": crc64.to_string(),
                "contentMd5": content_md5,
                "clientIp": stream.peer_addr().map_or(String::new(), |peer| peer.ip().to_string()),
                "reqId": record.request_id,
                "operation": "PostObject",
            });
            for (name, value) in record.fields.iter().filter(|(name, _)| name.starts_with("x:")) {
                if !name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    variables[name] = json!(value);
                }
            }
            let record = notify::run(shared, callback, &variables, &record.request_id)?;
            let content_type = header(&record.answer_headers, "content-type");
            return Ok(stored(200).body(content_type.unwrap_or("application/json"), record.answer));
        }
        Ok(match self.field("success_action_status") {
            Some("200") => stored(200),
            Some("201") => stored(201).body("application/xml", created(shared, key, &etag)),
            _ => stored(204),
        })
    }
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

/// "PostObject", `success_action_status` 201.
fn created(shared: &Shared, key: &str, etag: &str) -> String {
    let (bucket, host) = (&shared.options.bucket, shared.options.host());
    let location = format!("http://{host}/{}", percent_encode_path(key));
    let key = escape(key);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<PostResponse>\n  \
         <Bucket>{bucket}</Bucket>\n  <Location>{location}</Location>\n  \
         <Key>{key}</Key>\n  <ETag>\"{etag}\"</ETag>\n\
         </PostResponse>\n"
    )
}
