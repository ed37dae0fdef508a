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
        (NEW, "https://abc.oss-cn-beijing-internal.aliyuncs.com", false),
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
}
