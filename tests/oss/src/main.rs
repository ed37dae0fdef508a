//! The stand-in as a server of its own: `oss-standin --help`. Stricter than the library's options
//! by default: private callback addresses are refused, as the real OSS refuses them.

use std::net::ToSocketAddrs;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use oss_standin::{CorsRule, Faults, Options, Standin};

const HELP: &str = "\
oss-standin: a stand-in for a bucket of Alibaba Cloud OSS, with PostObject and upload callbacks,
its key host, STS (AssumeRole) and the metadata service of an ECS instance. In memory.

usage: oss-standin [OPTION]...

where
  --ip IP                   IPv4 address to listen on [127.0.0.1]
  --port PORT               of the bucket; PORT+1 key host, PORT+2 STS, PORT+3 metadata service
                            [four that are free]
what
  --bucket NAME             [examplebucket]
  --region REGION           [cn-hangzhou]
  --domain NAME             a custom domain of the bucket; may be repeated
  --access-key-id ID        [LTAI5tExampleKeyId]
  --access-key-secret TEXT  [exampleAccessKeySecret]
  --security-token TEXT     makes that key a temporary one [none]
  --role-arn ARN            the one role of STS [acs:ram::1234567890123456:role/uploader]
  --ecs-role NAME           the role of the instance [appserver]
  --key-policy JSON         RAM policy of the access key [everything is allowed]
  --role-policy JSON        RAM policy of both roles [everything is allowed]
  --max-session SECONDS     the longest DurationSeconds of the role [3600]
  --credentials-live SECONDS  the life of temporary credentials, whatever was asked for
  --object KEY=FILE         puts a file into the bucket; may be repeated
CORS: one rule; POST and all headers unless said otherwise
  --cors-origin ORIGIN      may hold one *; may be repeated [*]
  --cors-method METHOD      may be repeated [POST]
  --cors-header NAME        may hold one *; may be repeated [*]
  --no-cors                 the bucket has no rule
callbacks: only to names that a --route knows, unless
  --private-callbacks       callbacks to this machine are sent (OSS: 400, 0007-00000008)
  --route NAME=IP:PORT      where callbacks to this name go, https ones in clear text; an address
                            of this machine; may be repeated
  --callback-timeout SECONDS  [5]
what the documents leave open
  --space-as-plus           a blank in a form value of a callback is + and not %20
  --plus-is-blank           + in the path of a callback is signed as a blank
  --keep-slash              %2F in the path of a callback is signed as it is
more
  --refuse-v1               as for new buckets since 2025
  --quiet                   prints the addresses and nothing else
  --help
";

struct Switches {
    options: Options,
    /// These two are set after the start.
    faults: Faults,
    objects: Vec<(String, String)>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let standin = match read(arguments).and_then(start) {
        Ok(standin) => standin,
        Err(error) => {
            eprintln!("oss-standin: {error}");
            return ExitCode::from(2);
        }
    };
    println!("bucket    {}", standin.url());
    println!("key host  {}", standin.key_origin());
    println!("sts       {}", standin.sts_url());
    println!("metadata  {}", standin.metadata_url());
    loop {
        std::thread::park();
    }
}

fn read(arguments: Vec<String>) -> Result<Switches, String> {
    let options = Options { private_callbacks: false, verbose: true, ..Options::default() };
    let mut switches = Switches { options, faults: Faults::default(), objects: Vec::new() };
    let (mut origins, mut methods, mut headers) = (Vec::new(), Vec::new(), Vec::new());
    let mut no_cors = false;
    let mut arguments = arguments.into_iter();
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{name} needs a value"));
        let Switches { options, faults, objects } = &mut switches;
        match name.as_str() {
            "--ip" => options.ip = parse(&name, &value()?)?,
            "--port" => {
                let first: u16 = parse(&name, &value()?)?;
                let last = first.checked_add(3).ok_or("--port leaves no room for four")?;
                options.ports = [first, first + 1, first + 2, last];
            }
            "--bucket" => options.bucket = value()?,
            "--region" => options.region = value()?,
            "--domain" => options.domains.push(value()?),
            "--access-key-id" => options.access_key_id = value()?,
            "--access-key-secret" => options.access_key_secret = value()?,
            "--security-token" => options.security_token = Some(value()?),
            "--role-arn" => options.role_arn = value()?,
            "--ecs-role" => options.ecs_role = value()?,
            "--key-policy" => options.key_policy = Some(value()?),
            "--role-policy" => options.role_policy = Some(value()?),
            "--max-session" => options.max_session_seconds = parse(&name, &value()?)?,
            "--credentials-live" => options.credential_seconds = Some(parse(&name, &value()?)?),
            "--object" => objects.push(pair(&name, &value()?)?),
            "--cors-origin" => origins.push(value()?),
            "--cors-method" => methods.push(value()?),
            "--cors-header" => headers.push(value()?),
            "--no-cors" => no_cors = true,
            "--private-callbacks" => options.private_callbacks = true,
            "--route" => {
                let (host, address) = pair(&name, &value()?)?;
                let mut found = address.to_socket_addrs().map_err(|error| error.to_string())?;
                let found = found.find(|address| address.ip().is_loopback());
                let found = found.ok_or(format!("--route: {address} is not of this machine"))?;
                faults.routes.push((host, found));
            }
            "--callback-timeout" => {
                faults.callback_timeout = Duration::from_secs(parse(&name, &value()?)?);
            }
            "--space-as-plus" => faults.space_as_plus = true,
            "--plus-is-blank" => faults.path_decoding.plus_is_blank = true,
            "--keep-slash" => faults.path_decoding.keep_slash = true,
            "--refuse-v1" => faults.refuse_v1 = true,
            "--quiet" => options.verbose = false,
            other => return Err(format!("{other:?} is no option; --help shows all")),
        }
    }
    let mut cors = CorsRule::uploads_from("*");
    for (given, list) in
        [(origins, &mut cors.origins), (methods, &mut cors.methods), (headers, &mut cors.headers)]
    {
        if !given.is_empty() {
            *list = given;
        }
    }
    switches.faults.cors = if no_cors { Vec::new() } else { vec![cors] };
    Ok(switches)
}

fn parse<T: FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name}: {text:?} is none"))
}

fn pair(name: &str, text: &str) -> Result<(String, String), String> {
    let (one, other) = text.split_once('=').ok_or(format!("{name}: {text:?} has no ="))?;
    Ok((one.to_string(), other.to_string()))
}

fn start(switches: Switches) -> Result<Standin, String> {
    let mut objects = Vec::new();
    for (key, path) in switches.objects {
        objects.push((key, std::fs::read(&path).map_err(|error| format!("{path}: {error}"))?));
    }
    let standin = Standin::start(switches.options).map_err(|error| format!("listen: {error}"))?;
    for (key, bytes) in objects {
        standin.put(&key, &bytes, "application/octet-stream");
    }
    *standin.faults() = switches.faults;
    Ok(standin)
}
