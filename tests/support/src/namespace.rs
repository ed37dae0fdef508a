//! A network namespace of a test's own, with addresses that are not loopback's: a server that
//! exempts loopback from its limit per source cannot be attacked from there.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Output, Stdio};

/// Where a server in the namespace listens; who connects without a source has this one too.
pub const SERVER: &str = "10.77.0.100";
const SOURCES: u8 = 8;
/// Set in the process that runs inside.
const INSIDE: &str = "APPSERVER_TEST_NAMESPACE";
/// In seconds; far longer than any test takes, so that one that hangs ends by itself.
const TIMEOUT: &str = "400";
/// As root, then as anybody whom the system lets have a user namespace.
const UNSHARE: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];

/// The address of one of the clients: 1 to 8.
pub fn source(number: u8) -> IpAddr {
    assert!((1..=SOURCES).contains(&number), "there are {SOURCES} sources");
    Ipv4Addr::new(10, 77, 0, number).into()
}

/// Runs `body` in a namespace of its own. A process cannot enter one once it has threads, so the
/// test program is started again inside, to run only the test called `name`, which calls this
/// function again. The namespace ends with that process and its children.
pub fn run(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        add_addresses();
        return body();
    }
    let works = |how: &&&[&str]| output(Command::new("unshare").args(**how).arg("true")).is_ok();
    let Some(how) = UNSHARE.iter().find(works) else {
        return crate::skip(
            "a network namespace cannot be made: run it as root, or allow user namespaces (sysctl \
             user.max_user_namespaces, kernel.unprivileged_userns_clone)",
        );
    };
    // It ends the whole process group, servers among them.
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", TIMEOUT, "unshare"]).args(*how);
    command.arg(std::env::current_exe().expect("own path"));
    command.args(["--exact", name, "--include-ignored", "--nocapture"]);
    match output(command.env(INSIDE, "1")) {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            print!("{text}");
            assert!(text.contains("test result: ok. 1 passed"), "there is no test called {name}");
        }
        Err(text) => panic!("in the namespace:\n{text}"),
    }
}

fn add_addresses() {
    let own = SERVER.to_owned();
    let all = (1..=SOURCES).map(|number| source(number).to_string()).chain([own]);
    let add = |address| format!("addr replace {address}/32 dev lo\n");
    let v6 = (1..=4).flat_map(|network| (1..=5).map(move |host| (network, host)));
    let add_v6 =
        |(network, host)| format!("addr replace 2001:db8:0:{network}::{host}/128 dev lo\n");
    let batch = "link set lo up\n".to_owned()
        + &all.map(add).collect::<String>()
        + &v6.map(add_v6).collect::<String>();
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped());
    let mut ip = command.stdout(Stdio::inherit()).stderr(Stdio::inherit()).spawn().expect(
        "`ip` starts; this test needs it (tests/run installs it, or: apt-get install iproute2)",
    );
    ip.stdin.take().expect("piped").write_all(batch.as_bytes()).expect("ip reads");
    assert!(ip.wait().is_ok_and(|status| status.success()), "ip cannot add addresses");
}

/// Of a command that succeeds; else all that it said.
fn output(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(format!("{}{}{}", text(&output.stdout), text(&output.stderr), output.status))
}
