//! GET and HEAD of an object, with a V4 signature in the `Authorization` header.

use crate::digest::percent_decode;
use crate::error::OssError;
use crate::http::{Head, Reply};
use crate::{ReadRecord, Shared, access, names};

pub fn object(
    shared: &Shared,
    head: &Head,
    path: &str,
    request_id: &str,
) -> Result<Reply, OssError> {
    let key = String::from_utf8_lossy(&percent_decode(&path[1..])).into_owned();
    let mut faults = shared.faults();
    let (fault, hang) = (faults.reads.pop_front(), faults.hang_reads);
    drop(faults);
    if hang {
        shared.hold(None);
    }
    let result = match fault {
        Some((status, code)) => Err(OssError::new(status, &code, "Broken on purpose.")),
        None => find(shared, head, &key),
    };
    let (status, code) = match &result {
        Ok(_) => (200, String::new()),
        Err(error) => (error.status, error.code.clone()),
    };
    shared.say(format_args!("{} {key} -> {status} {code} ({request_id})", head.method));
    let (method, headers) = (head.method.clone(), head.headers.clone());
    shared.record(|state| state.reads.push(ReadRecord { method, key, headers, status, code }));
    result
}

fn find(shared: &Shared, head: &Head, key: &str) -> Result<Reply, OssError> {
    names::check_key(key)?;
    let object = shared.state().objects.get(key).cloned();
    let public = object.as_ref().and_then(|object| object.acl.as_deref());
    let public = public.is_some_and(|acl| acl.starts_with("public-read"));
    if !public || head.header("authorization").is_some() {
        access::header(shared, head, key)?;
    }
    let missing = OssError::new(404, "NoSuchKey", "The specified key does not exist.");
    let object = object.ok_or(missing.ec("0026-00000001").with("Key", key))?;
    let mut reply = Reply::new(200)
        .header("ETag", format!("\"{}\"", object.etag))
        .header("x-oss-hash-crc64ecma", object.crc64)
        .header("x-oss-object-type", "Normal")
        .header("x-oss-storage-class", "Standard");
    reply.headers.extend(object.headers);
    reply.body = object.bytes;
    Ok(reply.header("Content-Type", object.content_type))
}
