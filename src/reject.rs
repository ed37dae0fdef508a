//! Every way to say no to a request: a status, and fixed words that hold nothing of the request and
//! nothing that we expected. The words go to the client and to the log.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject(pub u16, pub &'static str);

impl Reject {
    // The proxy: requests that the application does not see.
    pub const BAD_HOST: Reject = Reject(400, "host is missing or there twice");
    pub const BAD_LENGTH: Reject = Reject(400, "content length is not a number");
    pub const BAD_LINE_END: Reject = Reject(400, "line does not end in CRLF");
    pub const BAD_REQUEST_TARGET: Reject = Reject(400, "bad request target");
    pub const CONTROL_CHARACTER: Reject = Reject(400, "control character in the header");
    pub const HEADER_TWICE: Reject = Reject(400, "a header is there twice");
    pub const MALFORMED: Reject = Reject(400, "malformed request");
    pub const TWO_LENGTHS: Reject = Reject(400, "two content lengths");
    pub const TOO_SLOW: Reject = Reject(408, "request took too long");
    pub const NO_LENGTH: Reject = Reject(411, "content length is missing");
    pub const BODY_TOO_LONG: Reject = Reject(413, "body longer than 20 KiB");
    pub const BAD_EXPECTATION: Reject = Reject(417, "unknown expectation");
    pub const HEAD_TOO_LONG: Reject = Reject(431, "header too long");
    pub const TOO_MANY_HEADERS: Reject = Reject(431, "too many headers");
    pub const TRANSFER_CODING: Reject = Reject(501, "transfer codings are not supported");
    pub const BUSY: Reject = Reject(503, "busy");
    pub const BAD_VERSION: Reject = Reject(505, "not HTTP/1.0 or HTTP/1.1");

    // The callback.
    pub const BAD_AUTHORIZATION: Reject = Reject(400, "authorization is not a signature");
    pub const BAD_KEY_URL: Reject = Reject(400, "x-oss-pub-key-url names no OSS public key");
    pub const BAD_PATH: Reject = Reject(400, "path is not percent-encoded");
    /// OSS always sends it: something on the way takes it off (README, "Troubleshooting").
    pub const AUTHORIZATION_GONE: Reject =
        Reject(400, "authorization is missing: does the proxy in front pass it on?");
    pub const KEY_URL_MISSING: Reject = Reject(400, "x-oss-pub-key-url is missing");
    pub const FIELD_TOO_LONG: Reject = Reject(400, "authorization or x-oss-pub-key-url too long");
    pub const TOKEN_MISSING: Reject = Reject(400, "token is missing");
    pub const TOKEN_FORGED: Reject = Reject(400, "token is not one of ours for this path");
    pub const TOKEN_EXPIRED: Reject = Reject(400, "token has expired");
    pub const SIGNATURE_MISMATCH: Reject = Reject(400, "signature does not match");
    pub const KEY_UNAVAILABLE: Reject = Reject(503, "public key cannot be had now");
    pub const BODY_UNREADABLE: Reject = Reject(400, "body is not of CALLBACK_BODY_TYPE");
    pub const NO_OBJECT: Reject = Reject(400, "body does not name an object");
    pub const NO_BUCKET: Reject = Reject(400, "body does not name a bucket");
    pub const BAD_OBJECT: Reject = Reject(400, "object's name is no path within its folder");
    pub const OTHER_BUCKET: Reject = Reject(400, "another bucket");
    pub const OTHER_PREFIX: Reject = Reject(400, "object is not under the token's prefix");
    pub const OBJECT_MISSING: Reject = Reject(400, "object is not in the bucket");
    pub const OBJECT_DIFFERS: Reject = Reject(400, "object in the bucket differs");
    pub const BUCKET_UNREACHABLE: Reject = Reject(503, "bucket cannot be asked now");
    pub const NOT_RECORDED: Reject = Reject(500, "upload could not be recorded");

    // The policy.
    pub const NO_CREDENTIALS: Reject = Reject(503, "no credentials to sign with now");

    // The upload token.
    pub const NO_TICKET: Reject = Reject(401, "ticket is missing");
    pub const BAD_TICKET: Reject = Reject(401, "ticket is not a JWT of up to 4096 bytes");
    pub const BAD_ALGORITHM: Reject = Reject(401, "ticket's alg is not HS256, or it has crit");
    pub const BAD_MAC: Reject = Reject(401, "ticket is not signed with UPLOAD_JWT_SECRET");
    pub const NO_EXP: Reject = Reject(401, "ticket's exp is missing");
    pub const BAD_EXP: Reject = Reject(401, "ticket's exp is not a number");
    pub const LONG_EXP: Reject = Reject(401, "ticket's exp is in milliseconds, not in seconds");
    pub const BAD_BEGIN: Reject = Reject(401, "ticket's nbf or iat is not a number");
    pub const BAD_MAX: Reject = Reject(401, "ticket's max is not a whole number from 1");
    pub const BAD_TYPES: Reject = Reject(401, "ticket's types is not a list of content types");
    pub const MIXED_TYPES: Reject = Reject(401, "ticket's types has image/* beside others");
    pub const EXPIRED_TICKET: Reject = Reject(401, "ticket has expired");
    pub const EARLY_TICKET: Reject = Reject(401, "ticket is not valid yet");
    pub const BAD_SUBJECT: Reject = Reject(401, "ticket has no usable sub");
    pub const EMPTY_TICKET: Reject = Reject(401, "ticket allows no content type");
}
