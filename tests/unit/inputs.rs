//! What users bring: hosts, values and templates as they were seen in public reports (names
//! replaced) with their neighbours, and what the program makes of each.

use appserver::app::App;

use crate::config::{config, error};

const BUCKET_HOST: (&str, &str) = ("OSS_HOST", "https://abc.oss-cn-hangzhou.aliyuncs.com");

/// One line names the variable and says this.
fn is_refused(changes: &[(&str, &str)], name: &str, says: &str) {
    let error = error(&[&[BUCKET_HOST], changes].concat());
    let is_named = error.starts_with(&format!("{name}: ")) && error.contains(says);
    assert!(is_named && !error.contains('\n'), "{changes:?} is not {name} {says:?}: {error}");
}

/// The start succeeds, and these lines of the report are in force.
fn is_accepted(changes: &[(&str, &str)], lines: &[&str]) {
    let config = config(&[&[BUCKET_HOST], changes].concat());
    let report = config.report.clone();
    let has = |line: &&str| report.lines().any(|there| there == *line);
    assert!(lines.iter().all(has), "{changes:?} lacks {lines:?}: {report}");
    let started = App::new(config, 0).map(|_| ());
    assert!(started.is_ok(), "{changes:?}: {started:?}");
}

/// One change each, with what it comes to: refused with these words, or (empty) accepted.
fn one_by_one(rows: &[(&str, &str, &str)]) {
    for (name, value, says) in rows {
        match *says {
            "" => is_accepted(&[(name, value)], &[]),
            says => is_refused(&[(name, value)], name, says),
        }
    }
}

/// Endpoints: finance and government regions, internal, VPC and new spellings of OSS_HOST.
#[test]
fn hosts_name_their_bucket_and_region() {
    let rows = [
        ("abc.oss-cn-hzfinance", "cn-hangzhou-finance"),
        ("abc.oss-cn-hzfinance-internal", "cn-hangzhou-finance"),
        ("abc.oss-cn-hzjbp-a-internal", "cn-hangzhou-finance"),
        ("abc.oss-cn-szfinance", "cn-shenzhen-finance-1"),
        ("abc.oss-cn-szfinance-internal", "cn-shenzhen-finance-1"),
        ("abc.oss-cn-shenzhen-finance-1-pub", "cn-shenzhen-finance-1"),
        ("abc.oss-cn-shanghai-finance-1-pub", "cn-shanghai-finance-1"),
        ("abc.oss-cn-shanghai-finance-1-pub-internal", "cn-shanghai-finance-1"),
        ("abc.oss-cn-shanghai-finance-1-internal", "cn-shanghai-finance-1"),
        ("abc.oss-cn-beijing-finance-1-pub", "cn-beijing-finance-1"),
        ("abc.oss-cn-north-2-gov-1", "cn-north-2-gov-1"),
        ("abc.oss-cn-north-2-gov-1-internal", "cn-north-2-gov-1"),
        ("abc.cn-hangzhou.oss", "cn-hangzhou"),
        ("abc.ap-southeast-1.oss", "ap-southeast-1"),
        ("abc.vpc100-oss-cn-beijing", "cn-beijing"),
        ("abc.oss-cn-beijing-vpc", "cn-beijing"),
        ("abc.oss-us-west-1-internal", "us-west-1"),
        ("oss-abc.oss-cn-hangzhou", "cn-hangzhou"),
    ];
    for (host, region) in rows {
        let bucket = host.split('.').next().unwrap();
        let host = format!("https://{host}.aliyuncs.com");
        let lines = [format!("OSS_BUCKET = {bucket}"), format!("OSS_REGION = {region}")];
        let lines = [&*lines[0], &lines[1]];
        let host = ("OSS_HOST", &*host);
        is_accepted(&[host], &lines);
        is_accepted(&[host, ("OSS_REGION", region)], &lines);
        is_refused(&[host, ("OSS_REGION", "eu-west-1")], "OSS_REGION", "is not a region");
    }
}

/// Custom domains, acceleration, access points and cloud boxes need OSS_BUCKET and OSS_REGION.
#[test]
fn what_a_host_does_not_say_is_said_by_variables() {
    let (bucket, region) = (("OSS_BUCKET", "abc"), ("OSS_REGION", "cn-hangzhou-finance"));
    for host in [
        "https://files.example.com",
        "https://files.example.com/",
        "https://oss-cn-hangzhou.aliyuncs.com.example.com",
        "https://abc.oss-accelerate.aliyuncs.com",
        "https://abc.oss-accelerate-overseas.aliyuncs.com",
        "https://abc.oss-rg-china-mainland.aliyuncs.com",
        "https://point-1234.oss-cn-hangzhou.oss-accesspoint.aliyuncs.com",
        "https://abc.cb-1234.cn-hangzhou.oss-cloudbox.aliyuncs.com",
    ] {
        let lines = ["OSS_BUCKET = abc", "OSS_REGION = cn-hangzhou-finance"];
        let host = ("OSS_HOST", host);
        is_accepted(&[host, bucket, region], &lines);
        is_refused(&[host, bucket], "OSS_REGION", "not set (a region like");
    }
}

/// Whatever else is set: the form would be posted to an endpoint that has no bucket.
#[test]
fn a_host_of_oss_without_a_bucket_is_refused() {
    let more = [("OSS_BUCKET", "abc"), ("OSS_REGION", "cn-hangzhou")];
    for host in [
        "https://oss-cn-hangzhou.aliyuncs.com",
        "https://oss-cn-hangzhou.aliyuncs.com/",
        "https://oss-cn-hangzhou.aliyuncs.com:443",
        "https://oss-cn-hangzhou-internal.aliyuncs.com",
        "https://oss-cn-hzfinance.aliyuncs.com",
        "https://oss-accelerate.aliyuncs.com",
        "https://vpc100-oss-cn-beijing.aliyuncs.com",
        "https://cn-hangzhou.oss.aliyuncs.com",
        "https://oss.aliyuncs.com",
        "https://abc.cn-hangzhou.aliyuncs.com",
        "https://s3.oss-cn-hangzhou.aliyuncs.com",
        "https://OSS-cn-hangzhou.aliyuncs.com",
        "https://oss-cn-hangzhou.AliyunCS.com",
        "https://ABC.oss-cn-hangzhou.aliyuncs.com",
        "https://my_bucket.oss-cn-hangzhou.aliyuncs.com",
    ] {
        let (host, says) = (("OSS_HOST", host), "names no valid bucket");
        is_refused(&[host], host.0, says);
        is_refused(&[host, more[0], more[1]], host.0, says);
    }
}

/// OSS_INTERNAL_HOST, by which uploads are confirmed, names the same bucket, in the clear only
/// inside.
#[test]
fn the_inner_host_is_of_the_same_bucket() {
    let says = "is not https://BUCKET.ENDPOINT";
    let name = "OSS_INTERNAL_HOST";
    one_by_one(&[
        (name, "https://abc.oss-cn-hangzhou-internal.aliyuncs.com", ""),
        (name, "https://abc.oss-accelerate.aliyuncs.com", ""),
        (name, "https://files.example.com", ""),
        (name, "https://abc.cn-hangzhou.oss.aliyuncs.com", ""),
        (name, "https://other.oss-cn-hangzhou-internal.aliyuncs.com", says),
        (name, "https://oss-cn-hangzhou-internal.aliyuncs.com", says),
        (name, "https://abc.oss-cn-hangzhou-internal.aliyuncs.com.", says),
    ]);
    let host = ("OSS_HOST", "http://abc.oss-cn-hangzhou.aliyuncs.com");
    let says = "https://BUCKET.ENDPOINT (http:// at -internal.aliyuncs.com alone)";
    is_refused(&[host, ("CONFIRM_UPLOADS", "on")], name, says);
}

/// `docker --env-file` and some editors keep them.
#[test]
fn values_in_quotes_are_refused_in_any_variable() {
    let says = "begins or ends with a quote";
    one_by_one(&[
        ("UPLOAD_DIR", "\"user-uploads/\"", says),
        ("UPLOAD_DIR", "'user-uploads/'", says),
        ("UPLOAD_DIR", "“user-uploads/”", says),
        ("UPLOAD_DIR", "user-uploads/\"", says),
        ("UPLOAD_DIR", "`user-uploads/`", says),
        ("UPLOAD_DIR", "‘user-uploads/’", says),
        ("UPLOAD_DIR", "o'neill/", ""),
        ("OSS_HOST", "\"https://abc.oss-cn-hangzhou.aliyuncs.com\"", says),
        ("OSS_ACCESS_KEY_ID", "\"LTAI5tExample\"", says),
        ("OSS_ACCESS_KEY_SECRET", "\"exampleSecret\"", says),
        ("OSS_ACCESS_KEY_SECRET", "'exampleSecret'", says),
        ("OSS_SESSION_TOKEN", "\"exampleToken\"", says),
        ("OSS_ACCESS_KEY_SECRET", "\"example'Secret", ""),
        ("OSS_ACCESS_KEY_SECRET", "exampleSecret\"", ""),
        ("OSS_ACCESS_KEY_SECRET", "“exampleSecret”", "contains white space or is not ASCII"),
        ("UPLOAD_JWT_SECRET", "\"jwtSecretOfMoreThanThirtyTwoCharacters\"", says),
        ("CALLBACK_TOKEN_KEY", "'tokenKeyOfMoreThanThirtyTwoCharacters'", says),
        ("CALLBACK_BODY", "'bucket=${bucket}&object=${object}'", says),
        ("EXPIRE_TIME", "\"\"", says),
        ("ALLOW_ORIGIN", "\"*\"", says),
    ]);
}

/// An origin or a content type that no browser sends in this spelling.
#[test]
fn values_that_can_never_match_are_refused() {
    let [origin, page] = ["is not * or a comma list of origins", "ALLOW_ORIGIN"];
    let [content_type, types] = ["is not a comma list of content types", "UPLOAD_CONTENT_TYPES"];
    one_by_one(&[
        (page, "https://WWW.Example.com", origin),
        (page, "https://a.example:443", origin),
        (page, "http://a.example:80", origin),
        (page, "http://a.example,https://b.example:443", origin),
        (page, "HTTPS://a.example", origin),
        (page, "https://a.example/", origin),
        (page, "https://a.example/page", origin),
        (page, "https://a.example.", origin),
        (page, "https://a..example", origin),
        (page, "https://*.example.com", origin),
        (page, "https://例子.example", origin),
        (page, "ws://a.example", origin),
        (page, "ftp://a.example", origin),
        (page, "file://", origin),
        (page, "http://a.example:443,https://a.example:80", ""),
        (page, "http://localhost:3000, null", ""),
        (page, "capacitor://localhost", ""),
        (page, "tauri://localhost,https://tauri.localhost", ""),
        (page, "app://.", ""),
        (page, "chrome-extension://abcdefghijklmnopabcdefghijklmnop", ""),
        (page, "moz-extension://0b5a2f4e-9c1d-4d3e-8f00-000000000000", ""),
        (page, "ionic://localhost,com.example.app://-", ""),
        (page, "safari-web-extension://7D3E2A10-5B1C-4F7E-9A55-0123456789AB", ""),
        (page, "App://localhost", origin),
        (page, "capacitor://localhost/", origin),
        (page, "capacitor:localhost", origin),
        (page, "://localhost", origin),
        (types, "image/PNG", content_type),
        (types, "Image/png", content_type),
        (types, "image/jpg", content_type),
        (types, "image/png,image/jpg", content_type),
        (types, "image/", content_type),
        (types, "/png", content_type),
        (types, "text/plain;charset=utf-8", content_type),
        (types, "image/gif,'image/png',a/b", content_type),
        (types, "image/*", ""),
        (types, "image/*,text/plain", "image/* alone (a policy cannot say it beside others)"),
        (types, "text/plain,image/*", "image/* alone"),
        (types, "image/*,video/*", "image/* alone"),
        (types, "*", ""),
        (types, "*/*", content_type),
        (types, "image*", content_type),
        (types, "*/png", content_type),
        (types, ".png", content_type),
        (types, "image/png, image/svg+xml,application/vnd.ms-excel", ""),
    ]);
}

/// Comma, semicolon or blank: each list has one separator, and two of what must be one are refused.
#[test]
fn lists_have_their_separator_and_single_values_are_no_lists() {
    let types = "is not a comma list of content types";
    let urls = "is not 1 to 5 http(s)://HOST";
    let origins = "is not * or a comma list of origins";
    one_by_one(&[
        ("UPLOAD_CONTENT_TYPES", "image/png;image/jpeg", types),
        ("UPLOAD_CONTENT_TYPES", "image/png image/jpeg", types),
        ("UPLOAD_CONTENT_TYPES", "image/png|image/jpeg", types),
        ("UPLOAD_CONTENT_TYPES", "[\"image/png\"]", types),
        ("ALLOW_ORIGIN", "https://a.example;https://b.example", origins),
        ("ALLOW_ORIGIN", "https://a.example https://b.example", origins),
        ("ALLOW_ORIGIN", "https://a.example|https://b.example", origins),
        ("CALLBACK_URL", "http://a.example/cb,http://b.example/cb", urls),
        ("CALLBACK_URL", "http://a.example/cb|http://b.example/cb", urls),
        ("CALLBACK_URL", "http://a.example/cb http://b.example/cb", urls),
        ("CALLBACK_URL", "http://a.example/cb; http://b.example/cb", urls),
        ("CALLBACK_URL", "http://a.example/cb;http://b.example/cb", ""),
        ("CALLBACK_URL", "http://a.example/cb?next=http://b.example&x=1,2", ""),
        ("UPLOAD_DIR", "images/,videos/", "is not a key prefix"),
        ("UPLOAD_DIR", "images/;videos/", "is not a key prefix"),
        ("UPLOAD_DIR", "a,b/", ""),
        ("OSS_ACCESS_KEY_ID", "LTAI5tOne,LTAI5tOther", "is not an access key id"),
        ("OSS_ACCESS_KEY_ID", "LTAI5t...", "is not an access key id"),
        ("OSS_HOST", "https://abc.oss-cn-hangzhou.aliyuncs.com,https://b.example", "is not"),
        ("OSS_BUCKET", "abc,abd", "is not a bucket's name"),
        ("EXPIRE_TIME", "30,60", "is not a number"),
        (
            "OSS_STS_ROLE_ARN",
            "acs:ram::1:role/a,acs:ram::1:role/b",
            "is not acs:ram::ACCOUNT:role/NAME",
        ),
        ("OSS_STS_ROLE_ARN", "acs:ram::1:role/a", ""),
    ]);
}

/// A security token (OSS_SESSION_TOKEN) is required with a key id that begins with STS.
#[test]
fn temporary_keys_come_with_their_token() {
    let says = "not set, and a key whose id begins with STS.";
    let token = ("OSS_SESSION_TOKEN", "exampleToken");
    let id = |id| ("OSS_ACCESS_KEY_ID", id);
    let role = ("OSS_STS_ROLE_ARN", "acs:ram::1:role/a");
    is_refused(&[id("STS.NUexample")], "OSS_SESSION_TOKEN", says);
    is_refused(&[id("STS.L4aBexample")], "OSS_SESSION_TOKEN", says);
    is_refused(&[id("STS.NUexample"), role], "OSS_SESSION_TOKEN", says);
    is_refused(&[id("STS.NUexample"), (token.0, "")], "OSS_SESSION_TOKEN", "set, but empty");
    is_accepted(&[id("STS.NUexample"), token], &["OSS_SESSION_TOKEN = (set)"]);
    is_accepted(&[id("LTAI5tExample"), token], &["OSS_SESSION_TOKEN = (set)"]);
    is_accepted(&[id("LTAI5tExample")], &["OSS_SESSION_TOKEN = "]);
}

/// What Alibaba's SDKs read is not silently left aside.
#[test]
fn names_of_other_programs_are_said_in_ours() {
    let unknown = "unknown variable";
    let is_ours = |ours: &str| format!("unknown variable; is it {ours}?");
    let id = [("ALIBABA_CLOUD_ACCESS_KEY_ID", "LTAI5tOther")];
    let role = ("ALIBABA_CLOUD_ECS_METADATA", "role");
    let unset = ["OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET"].map(|name| (name, "(unset)"));
    let key = ["OSS_ACCESS_KEY_ID = LTAI5tExample", "OSS_ACCESS_KEY_SECRET = (set)"];
    let token_key = ("CALLBACK_TOKEN_KEY", "tokenKeyOfMoreThanThirtyTwoCharacters");
    let ecs = [unset[0], unset[1], token_key, ("OSS_ECS_ROLE", "own"), id[0], role];
    is_refused(&[unset[0], unset[1], role], role.0, &is_ours("OSS_ECS_ROLE"));
    // On machines and in containers where other programs have theirs.
    is_accepted(&[("ALIBABA_CLOUD_SECURITY_TOKEN", "x")], &key);
    is_accepted(&[role], &key);
    is_accepted(&[id[0], ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "x")], &key);
    is_accepted(&ecs, &["OSS_ECS_ROLE = own"]);
    // In a cluster, what links to services of these names.
    is_accepted(&[("UPLOAD_SERVICE_HOST", "10.0.0.1")], &key);
    is_accepted(&[("OSS_UPLOAD_PORT", "tcp://10.0.0.1:80")], &key);
    is_accepted(&[("CALLBACK_PORT_80_TCP_ADDR", "10.0.0.1")], &key);
    is_accepted(&[("OSS_SERVICE_PORT_HTTP", "80")], &key);
    let mistyped = "OSS_ACCESKEY_SECRET";
    is_refused(&[(mistyped, "x")], mistyped, &is_ours("OSS_ACCESS_KEY_SECRET"));
    let endpoint = ("OSS_ENDPOINT", "x");
    is_refused(&[endpoint], endpoint.0, unknown);
    is_refused(&[endpoint, ("OSS_HOST", "(unset)")], endpoint.0, &is_ours("OSS_HOST"));
    is_refused(&[("OSS_STS_TOKEN", "x")], "OSS_STS_TOKEN", unknown);
    // It may be another program's where ours is set too.
    is_accepted(&id, &["OSS_ACCESS_KEY_ID = LTAI5tExample"]);
    is_refused(&[id[0], unset[0]], id[0].0, &is_ours("OSS_ACCESS_KEY_ID"));
}

/// A template that OSS would not fill in as its author means.
#[test]
fn templates_hold_variables_that_oss_has() {
    let json = ("CALLBACK_BODY_TYPE", "application/json");
    // Without tokens no variable is needed, so only the template itself is judged.
    let off = ("CALLBACK_TOKEN", "off");
    let dollar = "has a $ that begins no ${variable}, or a percent-encoded one";
    let quoted = "in quotes; in JSON, OSS quotes values itself";
    for (body, says) in [
        ("bucket=%24%7Bbucket%7D&object=%24%7Bobject%7D", dollar),
        ("bucket=%24%7bbucket%7d", dollar),
        ("bucket=%24{bucket}", dollar),
        ("bucket=$%7Bbucket%7D", dollar),
        ("bucket=${bucket}&object=%24%7Bobject%7D", dollar),
        ("bucket=$bucket", dollar),
        ("bucket=$(bucket)", dollar),
        ("bucket=$${bucket}", dollar),
        ("bucket=${bucket}&price=$5", dollar),
        ("bucket=${bucket", dollar),
        ("type=${mimetype}", "OSS has no ${mimetype}, but bucket object etag size mimeType"),
        ("type=${MimeType}", "OSS has no ${MimeType}"),
        ("height=${imageInfo.Height}", "OSS has no ${imageInfo.Height}"),
        ("height=${height}", "OSS has no ${height}"),
        ("name=${filename}", "OSS has no ${filename}"),
        ("b=${ bucket }", "OSS has no ${ bucket }"),
        ("b=${}", "OSS has no ${}"),
        ("user=${x:userId}", "OSS has no ${x:userId}, but bucket"),
        ("user=${x:userId}", "x:name in lower case"),
        ("user=${X:user}", "OSS has no ${X:user}"),
        ("user=${x:}", "OSS has no ${x:}"),
        ("user=${user}", "OSS has no ${user}"),
        ("user=${x:user id}", "OSS has no ${x:user id}"),
        ("user=${x:user_id}&other=${x:my-var2}&b=${bucket}", ""),
        ("sum=${crc64}${contentMd5}&ip=${clientIp}&vpc=${vpcId}&op=${operation}", ""),
        ("a=100%25&b=${reqId}&format=${imageInfo.format}", ""),
        ("bucket=${bucket}&price=100%245", dollar),
        ("{\"bucket\":\"${bucket}\"}", quoted),
        ("{\"file\":{\"object\":\"${object}\",\"size\":${size}}}", quoted),
        ("{\"files\":[{\"object\":\"${object}\"}]}", quoted),
        ("{\"name\":\"of ${object}\"}", quoted),
        ("{\"name\":\"${object} of\"}", "is not name=${variable}&…, or in JSON {"),
        ("{\"file\":{\"type\":${mimetype}}}", "OSS has no ${mimetype}"),
        ("{\"file\":{\"object\":${object},\"size\":${size}},\"tags\":[${x:tag}]}", ""),
        ("{\"bucket\":${bucket},}", "is not name=${variable}&…, or in JSON {"),
    ] {
        let changes = [("CALLBACK_BODY", body), off, json];
        let changes = &changes[..if body.starts_with('{') { 3 } else { 2 }];
        match says {
            "" => is_accepted(changes, &[]),
            says => is_refused(changes, "CALLBACK_BODY", says),
        }
    }
}
