//! What users bring: hosts, values and templates as they were seen in public reports (names
//! replaced) with their neighbours, and what the program makes of each. A row says whether it was so
//! before (`SAME`) or not (`NEW`); `APPSERVER_BINARY=OLD INPUTS_BEFORE=1` holds an old one to that.

use support::run;

/// Whether it was so before this table was written.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Before {
    Same,
    New,
}
use Before::{New as NEW, Same as SAME};

const BUCKET_HOST: (&str, &str) = ("OSS_HOST", "https://abc.oss-cn-hangzhou.aliyuncs.com");

/// Code, standard output and standard error of `--check` with these variables over plain ones.
fn check(changes: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let key = [("OSS_ACCESS_KEY_ID", "LTAI5tExample"), ("OSS_ACCESS_KEY_SECRET", "exampleSecret")];
    let mut vars = [&key[..], &[BUCKET_HOST], changes].concat();
    vars.retain(|(name, _)| !changes.contains(&(name, "(unset)")));
    let run = run(&["--check"], &vars);
    (run.code, run.stdout, run.stderr)
}

type Row = (Before, Result<(), String>);

/// The start ends with one line that names the variable and says this.
fn is_refused(before: Before, changes: &[(&str, &str)], name: &str, says: &str) -> Row {
    let (code, _, stderr) = check(changes);
    let line = format!("appserver: {name}: ");
    let is_one_line = stderr.lines().count() == 1 && stderr.starts_with(&line);
    // An old program may have said the same in other words.
    let is_said = is_one_line && stderr.contains(says) || is_old() && before == SAME;
    let fault = format!("{changes:?} is not refused with {name} {says:?}: {stderr}");
    (before, (code == Some(2) && is_said).then_some(()).ok_or(fault))
}

/// The start succeeds, and these lines are in force.
fn is_accepted(before: Before, changes: &[(&str, &str)], lines: &[&str]) -> Row {
    let (code, stdout, stderr) = check(changes);
    let has =
        |line: &&str| is_old() && before == SAME || stdout.lines().any(|there| there == *line);
    let is_good = code == Some(0) && lines.iter().all(has);
    let fault = format!("{changes:?} lacks {lines:?}: {stderr}{stdout}");
    (before, is_good.then_some(()).ok_or(fault))
}

fn is_old() -> bool {
    std::env::var_os("INPUTS_BEFORE").is_some()
}

/// All rows at once, so that a fault shows its neighbours. Of an old program `NEW` rows must fail.
fn all_hold(rows: impl IntoIterator<Item = Row>) {
    let (mut count, mut faults) = (0, Vec::new());
    for (before, found) in rows {
        count += 1;
        if found.is_ok() == (is_old() && before == NEW) {
            faults.push(format!("row {count}, {before:?}: {found:?}"));
        }
    }
    assert!(count > 5, "{count} rows");
    assert!(faults.is_empty(), "{} of {count}:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn hosts_name_their_bucket_and_region() {
    let rows = [
        (NEW, "abc.oss-cn-hzfinance", "cn-hangzhou-finance"),
        (NEW, "abc.oss-cn-hzfinance-internal", "cn-hangzhou-finance"),
        (NEW, "abc.oss-cn-hzjbp-a-internal", "cn-hangzhou-finance"),
        (NEW, "abc.oss-cn-szfinance", "cn-shenzhen-finance-1"),
        (NEW, "abc.oss-cn-szfinance-internal", "cn-shenzhen-finance-1"),
        (NEW, "abc.oss-cn-shenzhen-finance-1-pub", "cn-shenzhen-finance-1"),
        (NEW, "abc.oss-cn-shanghai-finance-1-pub", "cn-shanghai-finance-1"),
        (NEW, "abc.oss-cn-shanghai-finance-1-pub-internal", "cn-shanghai-finance-1"),
        (SAME, "abc.oss-cn-shanghai-finance-1-internal", "cn-shanghai-finance-1"),
        (NEW, "abc.oss-cn-beijing-finance-1-pub", "cn-beijing-finance-1"),
        (SAME, "abc.oss-cn-north-2-gov-1", "cn-north-2-gov-1"),
        (SAME, "abc.oss-cn-north-2-gov-1-internal", "cn-north-2-gov-1"),
        (NEW, "abc.cn-hangzhou.oss", "cn-hangzhou"),
        (NEW, "abc.ap-southeast-1.oss", "ap-southeast-1"),
        (NEW, "abc.vpc100-oss-cn-beijing", "cn-beijing"),
        (NEW, "abc.oss-cn-beijing-vpc", "cn-beijing"),
        (SAME, "abc.oss-us-west-1-internal", "us-west-1"),
        (SAME, "oss-abc.oss-cn-hangzhou", "cn-hangzhou"),
    ];
    all_hold(rows.into_iter().flat_map(|(before, host, region)| {
        let bucket = host.split('.').next().unwrap();
        let host = format!("https://{host}.aliyuncs.com");
        let lines = [format!("OSS_BUCKET = {bucket}"), format!("OSS_REGION = {region}")];
        let lines = [&*lines[0], &lines[1]];
        let host = ("OSS_HOST", &*host);
        [
            is_accepted(before, &[host], &lines),
            is_accepted(before, &[host, ("OSS_REGION", region)], &lines),
            is_refused(SAME, &[host, ("OSS_REGION", "eu-west-1")], "OSS_REGION", "is not a region"),
        ]
    }));
}

#[test]
fn what_a_host_does_not_say_is_said_by_variables() {
    let (bucket, region) = (("OSS_BUCKET", "abc"), ("OSS_REGION", "cn-hangzhou-finance"));
    let rows = [
        (SAME, "https://files.example.com"),
        (SAME, "https://files.example.com/"),
        (SAME, "https://oss-cn-hangzhou.aliyuncs.com.example.com"),
        (SAME, "https://abc.oss-accelerate.aliyuncs.com"),
        (SAME, "https://abc.oss-accelerate-overseas.aliyuncs.com"),
        (NEW, "https://abc.oss-rg-china-mainland.aliyuncs.com"),
        (NEW, "https://point-1234.oss-cn-hangzhou.oss-accesspoint.aliyuncs.com"),
        (NEW, "https://abc.cb-1234.cn-hangzhou.oss-cloudbox.aliyuncs.com"),
    ];
    all_hold(rows.into_iter().flat_map(|(before, host)| {
        let host = ("OSS_HOST", host);
        let lines = ["OSS_BUCKET = abc", "OSS_REGION = cn-hangzhou-finance"];
        [
            is_accepted(before, &[host, bucket, region], &lines),
            is_refused(before, &[host, bucket], "OSS_REGION", "not set (a region like"),
        ]
    }));
}

/// Whatever else is set: the form would be posted to an endpoint that has no bucket.
#[test]
fn a_host_of_oss_without_a_bucket_is_refused() {
    let rows = [
        (NEW, "https://oss-cn-hangzhou.aliyuncs.com"),
        (NEW, "https://oss-cn-hangzhou.aliyuncs.com/"),
        (NEW, "https://oss-cn-hangzhou.aliyuncs.com:443"),
        (NEW, "https://oss-cn-hangzhou-internal.aliyuncs.com"),
        (NEW, "https://oss-cn-hzfinance.aliyuncs.com"),
        (NEW, "https://oss-accelerate.aliyuncs.com"),
        (NEW, "https://vpc100-oss-cn-beijing.aliyuncs.com"),
        (NEW, "https://cn-hangzhou.oss.aliyuncs.com"),
        (NEW, "https://oss.aliyuncs.com"),
        (NEW, "https://abc.cn-hangzhou.aliyuncs.com"),
        (SAME, "https://s3.oss-cn-hangzhou.aliyuncs.com"),
        (NEW, "https://OSS-cn-hangzhou.aliyuncs.com"),
        (NEW, "https://oss-cn-hangzhou.AliyunCS.com"),
        (SAME, "https://ABC.oss-cn-hangzhou.aliyuncs.com"),
        (SAME, "https://my_bucket.oss-cn-hangzhou.aliyuncs.com"),
    ];
    let more = [("OSS_BUCKET", "abc"), ("OSS_REGION", "cn-hangzhou")];
    all_hold(rows.into_iter().flat_map(|(before, host)| {
        let [host, says] = [("OSS_HOST", host), ("OSS_HOST", "names no valid bucket")];
        [
            is_refused(before, &[host], says.0, says.1),
            is_refused(before, &[host, more[0], more[1]], says.0, says.1),
        ]
    }));
}

#[test]
fn the_inner_host_is_of_the_same_bucket() {
    let says = "is not https://BUCKET.ENDPOINT";
    let rows = [
        (SAME, "https://abc.oss-cn-hangzhou-internal.aliyuncs.com", true),
        (SAME, "https://abc.oss-accelerate.aliyuncs.com", true),
        (SAME, "https://files.example.com", true),
        (SAME, "https://abc.cn-hangzhou.oss.aliyuncs.com", true),
        (NEW, "https://other.oss-cn-hangzhou-internal.aliyuncs.com", false),
        (NEW, "https://oss-cn-hangzhou-internal.aliyuncs.com", false),
        (NEW, "https://abc.oss-cn-hangzhou-internal.aliyuncs.com.", false),
    ];
    all_hold(rows.into_iter().map(|(before, host, good)| {
        let (name, changes) = ("OSS_INTERNAL_HOST", [("OSS_INTERNAL_HOST", host)]);
        if good {
            return is_accepted(before, &changes, &[]);
        }
        is_refused(before, &changes, name, says)
    }));
    let changes =
        [("OSS_HOST", "http://abc.oss-cn-hangzhou.aliyuncs.com"), ("CONFIRM_UPLOADS", "on")];
    let says = "https://BUCKET.ENDPOINT (http:// at -internal.aliyuncs.com alone)";
    is_refused(SAME, &changes, "OSS_INTERNAL_HOST", says).1.unwrap();
}

/// One change each, with what it comes to: refused with these words, or (empty) accepted.
fn one_by_one(rows: &[(Before, &str, &str, &str)]) -> Vec<Row> {
    let row = |(before, name, value, says): &(Before, &str, &str, &str)| match *says {
        "" => is_accepted(*before, &[(name, value)], &[]),
        says => is_refused(*before, &[(name, value)], name, says),
    };
    rows.iter().map(row).collect()
}

/// `docker --env-file` and some editors keep them.
#[test]
fn values_in_quotes_are_refused_in_any_variable() {
    let says = "begins or ends with a quote";
    all_hold(one_by_one(&[
        (NEW, "UPLOAD_DIR", "\"user-uploads/\"", says),
        (NEW, "UPLOAD_DIR", "'user-uploads/'", says),
        (NEW, "UPLOAD_DIR", "“user-uploads/”", says),
        (NEW, "UPLOAD_DIR", "user-uploads/\"", says),
        (NEW, "UPLOAD_DIR", "`user-uploads/`", says),
        (NEW, "UPLOAD_DIR", "‘user-uploads/’", says),
        (SAME, "UPLOAD_DIR", "o'neill/", ""),
        (SAME, "OSS_HOST", "\"https://abc.oss-cn-hangzhou.aliyuncs.com\"", says),
        (NEW, "OSS_ACCESS_KEY_ID", "\"LTAI5tExample\"", says),
        (NEW, "OSS_ACCESS_KEY_SECRET", "\"exampleSecret\"", says),
        (NEW, "OSS_ACCESS_KEY_SECRET", "'exampleSecret'", says),
        (NEW, "OSS_SESSION_TOKEN", "\"exampleToken\"", says),
        (SAME, "OSS_ACCESS_KEY_SECRET", "\"example'Secret", ""),
        (SAME, "OSS_ACCESS_KEY_SECRET", "exampleSecret\"", ""),
        (SAME, "OSS_ACCESS_KEY_SECRET", "“exampleSecret”", "contains white space or is not ASCII"),
        (NEW, "UPLOAD_JWT_SECRET", "\"jwtSecretOfMoreThanThirtyTwoCharacters\"", says),
        (NEW, "CALLBACK_TOKEN_KEY", "'tokenKeyOfMoreThanThirtyTwoCharacters'", says),
        (NEW, "CALLBACK_BODY", "'bucket=${bucket}&object=${object}'", says),
        (NEW, "CREDENTIALS_DIRECTORY", "\"/tmp\"", says),
        (SAME, "EXPIRE_TIME", "\"\"", says),
        (SAME, "ALLOW_ORIGIN", "\"*\"", says),
    ]));
}

/// An origin or a content type that no browser sends in this spelling.
#[test]
fn values_that_can_never_match_are_refused() {
    let [origin, page] = ["is not * or a comma list of origins", "ALLOW_ORIGIN"];
    let [content_type, types] = ["is not a comma list of content types", "UPLOAD_CONTENT_TYPES"];
    all_hold(one_by_one(&[
        (NEW, page, "https://WWW.Example.com", origin),
        (NEW, page, "https://a.example:443", origin),
        (NEW, page, "http://a.example:80", origin),
        (NEW, page, "http://a.example,https://b.example:443", origin),
        (SAME, page, "HTTPS://a.example", origin),
        (SAME, page, "https://a.example/", origin),
        (SAME, page, "https://a.example/page", origin),
        (NEW, page, "https://a.example.", origin),
        (NEW, page, "https://a..example", origin),
        (SAME, page, "https://*.example.com", origin),
        (SAME, page, "https://例子.example", origin),
        (SAME, page, "ws://a.example", origin),
        (SAME, page, "ftp://a.example", origin),
        (SAME, page, "file://", origin),
        (SAME, page, "http://a.example:443,https://a.example:80", ""),
        (SAME, page, "http://localhost:3000, null", ""),
        (NEW, page, "capacitor://localhost", ""),
        (NEW, page, "tauri://localhost,https://tauri.localhost", ""),
        (NEW, page, "app://.", ""),
        (NEW, page, "chrome-extension://abcdefghijklmnopabcdefghijklmnop", ""),
        (NEW, page, "moz-extension://0b5a2f4e-9c1d-4d3e-8f00-000000000000", ""),
        (NEW, page, "ionic://localhost,com.example.app://-", ""),
        (NEW, page, "safari-web-extension://7D3E2A10-5B1C-4F7E-9A55-0123456789AB", ""),
        (SAME, page, "App://localhost", origin),
        (SAME, page, "capacitor://localhost/", origin),
        (SAME, page, "capacitor:localhost", origin),
        (SAME, page, "://localhost", origin),
        (NEW, types, "image/PNG", content_type),
        (NEW, types, "Image/png", content_type),
        (NEW, types, "image/jpg", content_type),
        (NEW, types, "image/png,image/jpg", content_type),
        (NEW, types, "image/", content_type),
        (NEW, types, "/png", content_type),
        (NEW, types, "text/plain;charset=utf-8", content_type),
        (NEW, types, "image/gif,'image/png',a/b", content_type),
        (NEW, types, "image/*", ""),
        (NEW, types, "image/*,text/plain", "image/* alone (a policy cannot say it beside others)"),
        (NEW, types, "text/plain,image/*", "image/* alone"),
        (NEW, types, "image/*,video/*", "image/* alone"),
        (NEW, types, "*", ""),
        (SAME, types, "*/*", content_type),
        (SAME, types, "image*", content_type),
        (SAME, types, "*/png", content_type),
        (SAME, types, ".png", content_type),
        (SAME, types, "image/png, image/svg+xml,application/vnd.ms-excel", ""),
    ]));
}

#[test]
fn lists_have_their_separator_and_single_values_are_no_lists() {
    let types = "is not a comma list of content types";
    let urls = "is not 1 to 5 http(s)://HOST";
    let origins = "is not * or a comma list of origins";
    all_hold(one_by_one(&[
        (SAME, "UPLOAD_CONTENT_TYPES", "image/png;image/jpeg", types),
        (SAME, "UPLOAD_CONTENT_TYPES", "image/png image/jpeg", types),
        (SAME, "UPLOAD_CONTENT_TYPES", "image/png|image/jpeg", types),
        (SAME, "UPLOAD_CONTENT_TYPES", "[\"image/png\"]", types),
        (SAME, "ALLOW_ORIGIN", "https://a.example;https://b.example", origins),
        (SAME, "ALLOW_ORIGIN", "https://a.example https://b.example", origins),
        (SAME, "ALLOW_ORIGIN", "https://a.example|https://b.example", origins),
        (NEW, "CALLBACK_URL", "http://a.example/cb,http://b.example/cb", urls),
        (NEW, "CALLBACK_URL", "http://a.example/cb|http://b.example/cb", urls),
        (SAME, "CALLBACK_URL", "http://a.example/cb http://b.example/cb", urls),
        (SAME, "CALLBACK_URL", "http://a.example/cb; http://b.example/cb", urls),
        (SAME, "CALLBACK_URL", "http://a.example/cb;http://b.example/cb", ""),
        (SAME, "CALLBACK_URL", "http://a.example/cb?next=http://b.example&x=1,2", ""),
        (NEW, "UPLOAD_DIR", "images/,videos/", "is not a key prefix"),
        (NEW, "UPLOAD_DIR", "images/;videos/", "is not a key prefix"),
        (SAME, "UPLOAD_DIR", "a,b/", ""),
        (NEW, "OSS_ACCESS_KEY_ID", "LTAI5tOne,LTAI5tOther", "is not an access key id"),
        (NEW, "OSS_ACCESS_KEY_ID", "LTAI5t...", "is not an access key id"),
        (SAME, "OSS_HOST", "https://abc.oss-cn-hangzhou.aliyuncs.com,https://b.example", "is not"),
        (SAME, "OSS_BUCKET", "abc,abd", "is not a bucket's name"),
        (SAME, "EXPIRE_TIME", "30,60", "is not a number"),
        (
            NEW,
            "OSS_STS_ROLE_ARN",
            "acs:ram::1:role/a,acs:ram::1:role/b",
            "is not acs:ram::ACCOUNT:role/NAME",
        ),
        (SAME, "OSS_STS_ROLE_ARN", "acs:ram::1:role/a", ""),
    ]));
}

#[test]
fn temporary_keys_come_with_their_token() {
    let says = "not set, and a key whose id begins with STS.";
    let token = ("OSS_SESSION_TOKEN", "exampleToken");
    let id = |id| ("OSS_ACCESS_KEY_ID", id);
    let role = ("OSS_STS_ROLE_ARN", "acs:ram::1:role/a");
    all_hold([
        is_refused(NEW, &[id("STS.NUexample")], "OSS_SESSION_TOKEN", says),
        is_refused(NEW, &[id("STS.L4aBexample")], "OSS_SESSION_TOKEN", says),
        is_refused(NEW, &[id("STS.NUexample"), role], "OSS_SESSION_TOKEN", says),
        is_refused(
            SAME,
            &[id("STS.NUexample"), (token.0, "")],
            "OSS_SESSION_TOKEN",
            "set, but empty",
        ),
        is_accepted(SAME, &[id("STS.NUexample"), token], &["OSS_SESSION_TOKEN = (set)"]),
        is_accepted(SAME, &[id("LTAI5tExample"), token], &["OSS_SESSION_TOKEN = (set)"]),
        is_accepted(SAME, &[id("LTAI5tExample")], &["OSS_SESSION_TOKEN = "]),
    ]);
}

/// What Alibaba's SDKs read is not silently left aside.
#[test]
fn names_of_other_programs_are_said_in_ours() {
    let is = |before, name, ours| {
        is_refused(before, &[(name, "x")], name, &format!("unknown variable; is it {ours}?"))
    };
    let id = [("ALIBABA_CLOUD_ACCESS_KEY_ID", "LTAI5tOther")];
    let role = ("ALIBABA_CLOUD_ECS_METADATA", "role");
    let unset = ["OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET"].map(|name| (name, "(unset)"));
    let key = ["OSS_ACCESS_KEY_ID = LTAI5tExample", "OSS_ACCESS_KEY_SECRET = (set)"];
    let token_key = ("CALLBACK_TOKEN_KEY", "tokenKeyOfMoreThanThirtyTwoCharacters");
    let ecs = [unset[0], unset[1], token_key, ("OSS_ECS_ROLE", "own"), id[0], role];
    all_hold([
        is_refused(
            NEW,
            &[unset[0], unset[1], role],
            role.0,
            "unknown variable; is it OSS_ECS_ROLE?",
        ),
        // On machines and in containers where other programs have theirs.
        is_accepted(SAME, &[("ALIBABA_CLOUD_SECURITY_TOKEN", "x")], &key),
        is_accepted(SAME, &[role], &key),
        is_accepted(SAME, &[id[0], ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "x")], &key),
        is_accepted(SAME, &ecs, &["OSS_ECS_ROLE = own"]),
        // In a cluster, what links to services of these names.
        is_accepted(NEW, &[("UPLOAD_SERVICE_HOST", "10.0.0.1")], &key),
        is_accepted(NEW, &[("OSS_UPLOAD_PORT", "tcp://10.0.0.1:80")], &key),
        is_accepted(NEW, &[("CALLBACK_PORT_80_TCP_ADDR", "10.0.0.1")], &key),
        is_accepted(NEW, &[("OSS_SERVICE_PORT_HTTP", "80")], &key),
        is(SAME, "OSS_ACCESS_KEY", "OSS_ACCESS_KEY_ID"),
        is(SAME, "OSS_ACCESKEY_SECRET", "OSS_ACCESS_KEY_SECRET"),
        is_refused(NEW, &[("OSS_ENDPOINT", "x")], "OSS_ENDPOINT", "unknown variable"),
        is_refused(
            NEW,
            &[("OSS_ENDPOINT", "x"), ("OSS_HOST", "(unset)")],
            "OSS_ENDPOINT",
            "unknown variable; is it OSS_HOST?",
        ),
        is_refused(NEW, &[("OSS_STS_TOKEN", "x")], "OSS_STS_TOKEN", "unknown variable"),
        // It may be another program's where ours is set too.
        is_accepted(SAME, &id, &["OSS_ACCESS_KEY_ID = LTAI5tExample"]),
        is_refused(
            NEW,
            &[id[0], ("OSS_ACCESS_KEY_ID", "(unset)")],
            id[0].0,
            "unknown variable; is it OSS_ACCESS_KEY_ID?",
        ),
    ]);
}

/// A template that OSS would not fill in as its author means.
#[test]
fn templates_hold_variables_that_oss_has() {
    let json = ("CALLBACK_BODY_TYPE", "application/json");
    // Without tokens no variable is needed, so only the template itself is judged.
    let off = ("CALLBACK_TOKEN", "off");
    let of = |(before, body, says): &(Before, &str, &str)| {
        let is_json = body.trim_matches('\'').starts_with('{');
        let changes = [("CALLBACK_BODY", *body), off, json];
        let changes = &changes[..if is_json { 3 } else { 2 }];
        match *says {
            "" => is_accepted(*before, changes, &[]),
            says => is_refused(*before, changes, "CALLBACK_BODY", says),
        }
    };
    let dollar = "has a $ that begins no ${variable}, or a percent-encoded one";
    let quoted = "in quotes; in JSON, OSS quotes values itself";
    let rows = [
        (NEW, "bucket=%24%7Bbucket%7D&object=%24%7Bobject%7D", dollar),
        (NEW, "bucket=%24%7bbucket%7d", dollar),
        (NEW, "bucket=%24{bucket}", dollar),
        (NEW, "bucket=$%7Bbucket%7D", dollar),
        (NEW, "bucket=${bucket}&object=%24%7Bobject%7D", dollar),
        (NEW, "bucket=$bucket", dollar),
        (NEW, "bucket=$(bucket)", dollar),
        (NEW, "bucket=$${bucket}", dollar),
        (NEW, "bucket=${bucket}&price=$5", dollar),
        (NEW, "bucket=${bucket", dollar),
        (NEW, "type=${mimetype}", "OSS has no ${mimetype}, but bucket object etag size mimeType"),
        (NEW, "type=${MimeType}", "OSS has no ${MimeType}"),
        (NEW, "height=${imageInfo.Height}", "OSS has no ${imageInfo.Height}"),
        (NEW, "height=${height}", "OSS has no ${height}"),
        (NEW, "name=${filename}", "OSS has no ${filename}"),
        (NEW, "b=${ bucket }", "OSS has no ${ bucket }"),
        (NEW, "b=${}", "OSS has no ${}"),
        (NEW, "user=${x:userId}", "OSS has no ${x:userId}, but bucket"),
        (NEW, "user=${x:userId}", "x:name in lower case"),
        (NEW, "user=${X:user}", "OSS has no ${X:user}"),
        (NEW, "user=${x:}", "OSS has no ${x:}"),
        (NEW, "user=${user}", "OSS has no ${user}"),
        (NEW, "user=${x:user id}", "OSS has no ${x:user id}"),
        (SAME, "user=${x:user_id}&other=${x:my-var2}&b=${bucket}", ""),
        (SAME, "sum=${crc64}${contentMd5}&ip=${clientIp}&vpc=${vpcId}&op=${operation}", ""),
        (SAME, "a=100%25&b=${reqId}&format=${imageInfo.format}", ""),
        (NEW, "bucket=${bucket}&price=100%245", dollar),
        (SAME, "{\"bucket\":\"${bucket}\"}", quoted),
        (SAME, "{\"file\":{\"object\":\"${object}\",\"size\":${size}}}", quoted),
        (SAME, "{\"files\":[{\"object\":\"${object}\"}]}", quoted),
        (SAME, "{\"name\":\"of ${object}\"}", quoted),
        (SAME, "{\"name\":\"${object} of\"}", "is not name=${variable}&…, or in JSON {"),
        (NEW, "{\"file\":{\"type\":${mimetype}}}", "OSS has no ${mimetype}"),
        (SAME, "{\"file\":{\"object\":${object},\"size\":${size}},\"tags\":[${x:tag}]}", ""),
        (SAME, "{\"bucket\":${bucket},}", "is not name=${variable}&…, or in JSON {"),
    ];
    all_hold(rows.iter().map(of));
}
