//! Configuration: what is derived, and one clear line for every mistake.

use appserver::app::App;
use appserver::config::{self, Config, VARIABLES, Vars};
use appserver::oss::address::alike;
use appserver::oss::credentials::Source;
use appserver::oss::keys::KeySource;
use appserver::sys::listener::Listen;
use support::Folder;

fn vars(changes: &[(&str, &str)]) -> Vars {
    let plain = [
        ("OSS_ACCESS_KEY_ID", "LTAI5tExample"),
        ("OSS_ACCESS_KEY_SECRET", "s3cr3tNeverShown"),
        ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
    ];
    let all = plain.iter().chain(changes);
    let mut vars: Vars = all.map(|(k, v)| (k.to_string(), v.to_string())).collect();
    vars.retain(|_, value| value != "(unset)");
    vars
}

pub fn config(changes: &[(&str, &str)]) -> Config {
    match Config::from_vars(&vars(changes)) {
        Ok(config) => config,
        Err(error) => panic!("{error}"),
    }
}

pub fn error(changes: &[(&str, &str)]) -> String {
    match Config::from_vars(&vars(changes)) {
        Ok(_) => panic!("accepted {changes:?}"),
        Err(error) => error.to_string(),
    }
}

/// Defaults are promises: README names them, and people rely on them without a line of their own.
#[test]
fn defaults_are_what_readme_says() {
    let found = config(&[]);
    assert_eq!((found.bucket.as_str(), found.region.as_str()), ("examplebucket", "cn-hangzhou"));
    assert_eq!((found.expire_seconds, found.max_upload_bytes), (30, 1_048_576_000));
    assert_eq!((found.token_ttl, found.max_connections), (Some(86_400), 512));
    assert_eq!((found.upload_dir.as_str(), found.path_prefix.as_str()), ("", ""));
    assert!(found.content_types.is_empty() && found.allow_origins.is_empty());
    assert!(found.client_page && !found.forbid_overwrite && found.callback.url.is_empty());
    assert!(found.confirm_host.is_none() && found.metrics.is_none());
    assert!(found.upload_log.is_none() && found.jwt_secret.is_none());
    let KeySource::Origin(origin) = &found.public_key else { panic!("a pinned key") };
    assert_eq!(origin, "https://gosspublic.alicdn.com");
    assert!(found.report.contains("OSS_ECS_ENDPOINT = http://100.100.100.200\n"));
    assert!(found.report.contains("OSS_STS_ENDPOINT = https://sts.cn-hangzhou.aliyuncs.com\n"));
}

/// What is posted to and signed for has no slash at its end. (Endpoints: inputs.rs.)
#[test]
fn a_slash_after_the_host_is_dropped() {
    let config = config(&[("OSS_HOST", "https://my-bucket.oss-ap-southeast-1.aliyuncs.com/")]);
    assert_eq!(config.host, "https://my-bucket.oss-ap-southeast-1.aliyuncs.com");
    assert_eq!((&*config.bucket, &*config.region), ("my-bucket", "ap-southeast-1"));
}

/// `CALLBACK_URL` and the default `CALLBACK_BODY` of either type.
#[test]
fn a_callback_is_taken_as_it_is() {
    let one = config(&[("CALLBACK_URL", "https://a.example/cb?x=%20")]).callback;
    assert_eq!(one.url, "https://a.example/cb?x=%20");
    assert_eq!(one.body_type, "application/x-www-form-urlencoded");
    assert!(one.body.starts_with("filename=${object}&size=${size}&mimeType=${mimeType}&height="));
    let json =
        [("CALLBACK_URL", "http://a:8080;http://b"), ("CALLBACK_BODY_TYPE", "application/json")];
    let json = config(&json).callback;
    assert_eq!(json.url, "http://a:8080;http://b");
    assert!(json.body.contains(r#""filename":${object}"#));
}

/// Typing errors, values out of range, unknown variables: one line that names the variable, and no
/// secret in it.
#[test]
fn every_mistake_names_its_variable() {
    let host = "is not https://BUCKET";
    let urls = "is not 1 to 5 http(s)://HOST";
    let types = "is not a comma list of content types";
    let body_types = "is not application/x-www-form-urlencoded or application/json";
    for (name, value, says) in [
        ("OSS_ACCESS_KEY_ID", "(unset)", "not set (an access key id)"),
        ("OSS_ACCESS_KEY_ID", "a/b", "not an access key id"),
        ("OSS_ACCESS_KEY_ID", "a b", "not an access key id"),
        ("OSS_ACCESS_KEY_SECRET", "(unset)", "not set, and no systemd credential"),
        ("OSS_ACCESS_KEY_SECRET", "", "set, but empty"),
        ("OSS_ACCESS_KEY_SECRET", "s3cr3t never shown", "white space"),
        ("OSS_SESSION_TOKEN", " ", "set, but empty"),
        ("OSS_HOST", "(unset)", "not set (https://BUCKET.ENDPOINT)"),
        ("OSS_HOST", "examplebucket.oss-cn-hangzhou.aliyuncs.com", host),
        ("OSS_HOST", "https://b.oss-cn-hangzhou.aliyuncs.com/path", host),
        ("OSS_HOST", "https://-bucket.oss-cn-hangzhou.aliyuncs.com", "names no valid bucket"),
        ("OSS_HOST", "https://bucket-.oss-cn-hangzhou.aliyuncs.com", "names no valid bucket"),
        ("OSS_HOST", "https://user@b.oss-cn-hangzhou.aliyuncs.com", host),
        ("OSS_HOST", "https://b.oss-cn-hangzhou.aliyuncs.com; script-src *", host),
        ("OSS_BUCKET", "other", "\"other\" is not a bucket's name (the same as in OSS_HOST"),
        ("OSS_REGION", "cn-beijing", "\"cn-beijing\" is not a region like cn-hangzhou (the same"),
        ("EXPIRE_TIME", "0", "from 1 to 604800"),
        ("EXPIRE_TIME", "604801", "from 1 to 604800"),
        ("EXPIRE_TIME", "30s", "from 1 to 604800"),
        ("MAX_UPLOAD_BYTES", "5368709121", "from 1 to 5368709120"),
        ("MAX_UPLOAD_BYTES", "-1", "from 1 to 5368709120"),
        ("UPLOAD_DIR", "/abs", "is not a key prefix"),
        ("UPLOAD_DIR", "a/${b}/", "is not a key prefix"),
        ("UPLOAD_DIR", "a\\b", "is not a key prefix"),
        ("UPLOAD_DIR", "a//", "is not a key prefix"),
        ("UPLOAD_DIR", "a/../b/", "is not a key prefix"),
        ("UPLOAD_DIR", "./", "is not a key prefix"),
        ("UPLOAD_DIR", "a\u{7f}/", "is not a key prefix"),
        ("UPLOAD_DIR", &"a".repeat(513), "is not a key prefix"),
        ("UPLOAD_CONTENT_TYPES", "image/png,,", types),
        ("FORBID_OVERWRITE", "yes", "is not on or off"),
        ("CLIENT_PAGE", "1", "is not on or off"),
        ("ALLOW_ORIGIN", "www.example.com", "is not * or a comma list of origins"),
        ("ALLOW_ORIGIN", "*,https://www.example.com", "is not * or a comma list of origins"),
        ("CALLBACK_URL", "ftp://a.example", urls),
        ("CALLBACK_URL", "a.example", urls),
        ("CALLBACK_URL", "http://[::1]:80/", urls),
        ("CALLBACK_URL", "http://a.example/中", urls),
        ("CALLBACK_URL", "http://a.example/ b", urls),
        ("CALLBACK_URL", "http://a.example:99999/", urls),
        ("CALLBACK_URL", "http://a;http://b;http://c;http://d;http://e;http://f", urls),
        ("CALLBACK_URL", "http://a/100%/b", urls),
        ("CALLBACK_URL", "http://a;", urls),
        ("CALLBACK_BODY_TYPE", "text/plain", body_types),
        ("CALLBACK_PUBLIC_KEY_FILE", "/does/not/exist", "No such file"),
        ("CALLBACK_PUBLIC_KEY_FILE", "/dev/null", "is not a PEM file"),
        ("CALLBACK_KEY_ORIGIN", "http://keys.example", "is not https://HOST"),
        ("CALLBACK_KEY_ORIGIN", "https://keys.example/x", "is not https://HOST"),
        ("CALLBACK_KEY_ORIGIN", "http://127.0.0.1:1@evil.example", "is not https://HOST"),
        ("PUBLIC_PATH_PREFIX", "post", "is not a path like /post"),
        ("PUBLIC_PATH_PREFIX", "/post/", "is not a path like /post"),
        ("PUBLIC_PATH_PREFIX", "/a//b", "is not a path like /post"),
        ("PUBLIC_PATH_PREFIX", "/p?x", "is not a path like /post"),
        ("PUBLIC_PATH_PREFIX", "/healthz", "is not a path like /post"),
        ("MAX_CONNECTIONS", "0", "from 1 to 65535"),
        ("UPLOAD_JWT_SECRET", "", "set, but empty"),
        ("UPLOAD_JWT_SECRET", "s3cr3t-but-short", "shorter than 32 characters"),
        ("CALLBACK_TOKEN_KEY", "", "set, but empty"),
        ("CALLBACK_TOKEN_KEY", "s3cr3t-but-short", "shorter than 32 characters"),
        ("CALLBACK_TOKEN", "no", "is not on or off"),
        ("CALLBACK_TOKEN_TTL", "0", "from 1 to 2592000"),
        ("CALLBACK_TOKEN_TTL", "2592001", "from 1 to 2592000"),
        ("UPLOAD_LOG", "/does/not/exist", "is not a folder"),
        ("METRICS_LISTEN", "9090", "is not IP:PORT"),
        ("METRICS_LISTEN", "localhost:9090", "is not IP:PORT"),
        ("CREDENTIALS_DIRECTORY", "/does/not/exist", "is not a folder"),
        ("CREDENTIALS_DIRECTORY", "\"/run\"", "begins or ends with a quote"),
        ("OSS_INTERNAL_HOST", "examplebucket", "is not https://BUCKET.ENDPOINT"),
        ("OSS_STS_ROLE_ARN", "acs:ram::1:user/x", "is not acs:ram::ACCOUNT:role/NAME"),
        ("OSS_STS_ENDPOINT", "http://100.100.100.200", "is not https://HOST"),
        ("OSS_ECS_ENDPOINT", "http://10.0.0.1", "is not http://100.100.100.200 or https"),
        ("OSS_ECS_ROLE", "a-role", "set, and another key or role is too: which is it?"),
        ("UPLOAD_CONTENT_TYPES", "'image/png'", "begins or ends with a quote"),
        ("EXPIRE_TIME", "\"30\"", "begins or ends with a quote"),
        ("EXPIRE_TIM", "30", "unknown variable; is it EXPIRE_TIME?"),
        ("OSS_ACESS_KEY_ID", "x", "unknown variable; is it OSS_ACCESS_KEY_ID?"),
        ("OSS_ACCESS_KEY", "x", "unknown variable; is it OSS_ACCESS_KEY_ID?"),
        ("callback_url", "x", "unknown variable; is it CALLBACK_URL?"),
        ("OSS_ID", "x", "unknown variable (appserver --help prints all)"),
        ("OSS_", "x", "unknown variable"),
        ("CALLBACK_HOST", "x", "unknown variable"),
        ("UPLOAD_MAX_SIZE", "x", "unknown variable"),
        ("ALLOW_ORIGINS", "x", "unknown variable; is it ALLOW_ORIGIN?"),
    ] {
        let error = error(&[(name, value)]);
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
        assert!(error.contains(says), "{error:?} should say {says:?}");
        assert!(!error.contains('\n') && !error.contains("s3cr3t"), "{error}");
    }
    for name in ["UPLOAD_JWT_SECRET", "CALLBACK_TOKEN_KEY"] {
        let error = error(&[(name, &"x".repeat(31))]);
        assert!(error.starts_with(&format!("{name}: ")) && !error.contains("xxx"), "{error}");
        config(&[(name, &"x".repeat(32))]);
    }
    let custom = ("OSS_HOST", "https://files.example.com");
    assert!(error(&[custom]).starts_with("OSS_BUCKET: not set (a bucket's name"));
    assert!(error(&[custom, ("OSS_BUCKET", "abc")]).starts_with("OSS_REGION: not set"));
    let region = ("OSS_REGION", "cn-beijing");
    assert!(error(&[custom, ("OSS_BUCKET", "Abc"), region]).starts_with("OSS_BUCKET: \"Abc\""));
    let prefixed = ("OSS_REGION", "oss-cn-beijing");
    assert!(error(&[custom, ("OSS_BUCKET", "abc"), prefixed]).starts_with("OSS_REGION: "));
    let json = ("CALLBACK_BODY_TYPE", "application/json");
    assert!(
        error(&[json, ("CALLBACK_BODY", "a=${object}")])
            .starts_with("CALLBACK_BODY: \"a=${object}\" is not name=")
    );
}

/// A body that lacks what the checks compare, a URL with a `token=` of its own (there would be
/// two), a parameter longer than OSS takes: every callback or upload would be refused.
#[test]
fn callbacks_that_could_not_be_checked_or_taken_stop_the_start() {
    let start = |changes: &[(&str, &str)]| {
        let error = App::new(config(changes), 0).err();
        error.map(|error| error.to_string()).unwrap_or_default()
    };
    let long = format!("o=${{object}}&b=${{bucket}}&x={}", "x".repeat(3500));
    let too_long = "CALLBACK_URL: with CALLBACK_BODY and tokens longer than OSS takes";
    for (body, token, confirm, says) in [
        ("", "on", "off", ""),
        ("o=${object}", "on", "off", "CALLBACK_BODY: lacks ${bucket}, "),
        ("b=${bucket}", "on", "off", "CALLBACK_BODY: lacks ${object}, "),
        ("a=${x:a}", "on", "off", "CALLBACK_BODY: lacks ${"),
        ("o=${object}", "off", "off", ""),
        ("a=${x:a}", "off", "off", ""),
        ("o=${object}&b=${bucket}", "on", "off", ""),
        ("o=${object}&b=${bucket}", "on", "on", "CALLBACK_BODY: lacks ${size}, "),
        ("o=${object}&b=${bucket}&s=${size}", "on", "off", ""),
        ("o=${object}&b=${bucket}&s=${size}", "on", "on", "CALLBACK_BODY: lacks ${etag}, "),
        ("o=${object}&b=${bucket}&e=${etag}", "on", "off", ""),
        ("o=${object}&b=${bucket}&e=${etag}", "on", "on", "CALLBACK_BODY: lacks ${size}, "),
        ("o=${object}&b=${bucket}&s=${size}&e=${etag}", "on", "on", ""),
        (&long, "on", "off", too_long),
    ] {
        let error = start(&[
            ("CALLBACK_URL", "http://a.example"),
            ("CALLBACK_BODY", body),
            ("CALLBACK_TOKEN", token),
            ("CONFIRM_UPLOADS", confirm),
        ]);
        assert!(error.starts_with(says) && error.is_empty() == says.is_empty(), "{body}: {error}");
    }
    for (url, is_refused) in [
        ("http://127.0.0.1:9/?token=mine", true),
        ("http://127.0.0.1:9/?a=1&token=mine", true),
        ("http://127.0.0.1:9/;http://127.0.0.1:9/?token=mine", true),
        ("http://127.0.0.1:9?token=mine", true),
        ("http://127.0.0.1:9/token=mine?tokens=1&xtoken=2", false),
    ] {
        assert_eq!(start(&[("CALLBACK_URL", url), ("CALLBACK_TOKEN", "off")]), "", "{url}");
        let error = start(&[("CALLBACK_URL", url)]);
        assert_eq!(error.starts_with("CALLBACK_URL: "), is_refused, "{url}: {error}");
        assert_eq!(error.is_empty(), !is_refused, "{url}: {error}");
    }
    assert!(start(&[("UPLOAD_LOG", "/proc")]).starts_with("UPLOAD_LOG: "));
}

/// The rest of the environment: `PATH`, `HOME`, `PORT`.
#[test]
fn other_programs_variables_are_none_of_our_business() {
    config(&[("PATH", "/bin"), ("HOME", "/root"), ("LANG", "C"), ("PORT", "1"), ("MAX_SIZE", "1")]);
}

/// `LoadCredential=` of systemd, by the folder that `CREDENTIALS_DIRECTORY` names.
#[test]
fn a_systemd_credential_holds_the_secret() {
    let folder = Folder::new();
    let (directory, file) = (folder.path(""), folder.path("oss_access_key_secret"));
    std::fs::write(&file, "fromTheFile\n").unwrap();
    let place = ("CREDENTIALS_DIRECTORY", &*directory);
    let found = config(&[("OSS_ACCESS_KEY_SECRET", "(unset)"), place]);
    let Source::Fixed(credentials) = found.source else { panic!("another source") };
    assert_eq!(credentials.access_key_secret.expose(), "fromTheFile");
    // The environment comes first.
    let Source::Fixed(credentials) = config(&[place]).source else { panic!("another source") };
    assert_eq!(credentials.access_key_secret.expose(), "s3cr3tNeverShown");
    std::fs::write(&file, "\n").unwrap();
    let empty = error(&[("OSS_ACCESS_KEY_SECRET", "(unset)"), place]);
    assert_eq!(empty, "OSS_ACCESS_KEY_SECRET: set, but empty");
}

/// The largest values that are documented: 7 days, 5 GB, 30 days, 512 bytes.
#[test]
fn limits_may_be_reached() {
    for (name, value) in [
        ("EXPIRE_TIME", "604800"),
        ("MAX_UPLOAD_BYTES", "5368709120"),
        ("CALLBACK_TOKEN_TTL", "2592000"),
        ("MAX_CONNECTIONS", "65535"),
        ("UPLOAD_DIR", &"a".repeat(512)),
        ("OSS_BUCKET", "examplebucket"),
        ("UPLOAD_JWT_SECRET", &"s".repeat(32)),
    ] {
        config(&[(name, value)]);
    }
}

/// A RAM role of the instance (ECS) beside any part of another key, or another role.
#[test]
fn two_sources_of_credentials_stop_the_start() {
    let arn = "acs:ram::1:role/x";
    for (name, value) in [
        ("OSS_ACCESS_KEY_ID", "LTAI5tExample"),
        ("OSS_ACCESS_KEY_SECRET", "s3cr3tNeverShown"),
        ("OSS_SESSION_TOKEN", "t0kenNeverShown"),
        ("OSS_STS_ROLE_ARN", arn),
    ] {
        let error = error(&[
            ("OSS_ACCESS_KEY_ID", "(unset)"),
            ("OSS_ACCESS_KEY_SECRET", "(unset)"),
            ("OSS_ECS_ROLE", "role"),
            ("CALLBACK_TOKEN_KEY", "tokenKeyOfMoreThanThirtyTwoCharacters"),
            (name, value),
        ]);
        assert!(error.starts_with("OSS_ECS_ROLE: set, and another key"), "{name}: {error}");
    }
}

/// A line for each variable of the table, in its order.
#[test]
fn the_report_has_the_value_of_every_variable_and_masks_secrets() {
    let changes = [("OSS_SESSION_TOKEN", "t0kenNeverShown"), ("UPLOAD_DIR", "user-uploads/")];
    let report = config(&changes).report;
    assert!(!report.contains("NeverShown"), "{report}");
    let lines: Vec<(&str, &str)> =
        report.lines().map(|line| line.split_once(" =").unwrap()).collect();
    let names = VARIABLES.map(|[name, ..]| name);
    assert_eq!(lines.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
    for [name, default, ..] in VARIABLES {
        let value = lines.iter().find(|(known, _)| *known == name).unwrap().1.trim();
        let expected = match name {
            "OSS_ACCESS_KEY_ID" => "LTAI5tExample",
            "OSS_ACCESS_KEY_SECRET" | "OSS_SESSION_TOKEN" => "(set)",
            "OSS_HOST" | "OSS_INTERNAL_HOST" => {
                "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"
            }
            "OSS_BUCKET" => "examplebucket",
            "OSS_REGION" => "cn-hangzhou",
            "OSS_STS_ENDPOINT" => "https://sts.cn-hangzhou.aliyuncs.com",
            "UPLOAD_DIR" => "user-uploads/",
            "CALLBACK_BODY" => {
                assert!(value.starts_with("filename=${object}&size=${size}&"), "{value}");
                continue;
            }
            _ => default,
        };
        assert_eq!(value, expected, "{name}");
    }
}

/// `--help` fits a terminal of 100 columns.
#[test]
fn help_has_a_line_of_a_terminals_width_for_every_variable() {
    let help = config::help();
    assert_eq!(help.lines().count(), VARIABLES.len());
    for (line, [name, default, _, words]) in help.lines().zip(VARIABLES) {
        assert!(line.starts_with(&format!("  {name} ")) && line.contains(words), "{line}");
        assert!(default.is_empty() || line.ends_with(&format!(" ({default})")), "{line}");
        assert!(line.chars().count() <= 100, "{line}");
    }
}

/// One line for all of them; those in systemd credentials are none.
#[test]
fn secrets_in_the_environment_are_named() {
    let secrets =
        ["OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN", "CALLBACK_TOKEN_KEY", "UPLOAD_JWT_SECRET"];
    let value = "t0kenNeverShown".repeat(3);
    let warning = config::bare_secrets(&vars(&secrets.map(|name| (name, value.as_str())))).unwrap();
    assert!(warning.starts_with(&secrets.join(", ")), "{warning}");
    assert!(warning.contains("/proc/PID/environ") && !warning.contains("NeverShown"), "{warning}");
    let unset = [("OSS_ACCESS_KEY_SECRET", "(unset)"), ("CREDENTIALS_DIRECTORY", "/")];
    assert_eq!(config::bare_secrets(&vars(&unset)), None);
}

/// Arguments: a port, an IPv4 or IPv6 address and a port, or a Unix socket.
#[test]
fn command_lines() {
    let parse = |line: &str| Listen::parse(&line.split_whitespace().collect::<Vec<_>>());
    for (line, address) in [
        ("1234", "http://0.0.0.0:1234"),
        ("11.22.33.44 1234", "http://11.22.33.44:1234"),
        ("::1 80", "http://[::1]:80"),
        ("127.0.0.1 0", "http://127.0.0.1:0"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
    ] {
        assert_eq!(parse(line).map(|listen| listen.to_string()), Ok(address.to_owned()));
    }
    for (line, says) in [
        ("", "expected [IP] PORT"),
        ("unix:relative", "not a port"),
        ("1 2 3", "expected [IP] PORT"),
        ("65536", "\"65536\": not a port"),
        ("localhost 80", "\"localhost\": not an IP address"),
        ("--port 80", "\"--port\": not an IP address"),
        ("--chek", "\"--chek\": not a port"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(says), "{line}: {error}");
    }
}

/// A confirmation in the clear, over a network that others can write to, confirms nothing.
#[test]
fn where_uploads_are_confirmed_is_private() {
    let public = "http://examplebucket.oss-cn-hangzhou.aliyuncs.com";
    let inside = "http://examplebucket.oss-cn-hangzhou-internal.aliyuncs.com";
    for (host, internal, confirm, good) in [
        (public, "", "off", true),
        (public, "", "on", false),
        (public, inside, "on", true),
        (public, "https://examplebucket.oss-cn-hangzhou.aliyuncs.com", "on", true),
        (public, public, "off", true),
        (inside, "", "on", true),
        (inside, public, "on", false),
        (inside, "http://127.0.0.1:9000", "on", true),
        (inside, "http://10.0.0.1:9000", "on", false),
        (inside, "http://127.0.0.1.example.com", "on", false),
        (inside, "http://a-internal.aliyuncs.com.example.com", "on", false),
    ] {
        let changes =
            [("OSS_HOST", host), ("OSS_INTERNAL_HOST", internal), ("CONFIRM_UPLOADS", confirm)];
        let found = Config::from_vars(&vars(&changes)).err();
        assert_eq!(found.is_none(), good, "{changes:?}: {found:?}");
        assert!(found.is_none_or(|error| error.starts_with("OSS_INTERNAL_HOST: ")));
    }
}

/// What suggestions of a variable's spelling go by: no byte counts twice.
#[test]
fn likeness_of_two_words() {
    for (a, b, expected) in
        [("abc", "abc", 3), ("aa", "a", 1), ("aba", "abba", 3), ("abc", "xbc", 2), ("ab", "ba", 0)]
    {
        assert_eq!((alike(a, b), alike(b, a)), (expected, expected), "{a} {b}");
    }
}
