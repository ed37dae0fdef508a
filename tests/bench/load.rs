//! What a request costs: `tests/bench/run`, or `cargo bench --bench load -- [ROUNDS] [SECONDS]
//! [ROW...]`, where ROW is a part of a row's name, as in `callback, TCP, 32`. One thread sends
//! requests to the server on TCP, to the server on a Unix socket, and to a bare tiny_http loop.
//! `OTHER=/path/to/appserver` names a second binary: each row is measured for both in turn.
//! Rounds of all rows in turn, so that noise hits all alike; their medians as Markdown.

mod bare;
mod client;
mod measure;
mod program;
mod requests;
mod table;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use measure::{Load, Sample, measure};
use oss_standin::Standin;
use program::{Place, Program};
use support::binary;
use support::load::closing;
use support::world::Site;

const LOADS: [Load; 4] = [
    Load { connections: 1, keep_alive: true },
    Load { connections: 32, keep_alive: true },
    Load { connections: 256, keep_alive: true },
    Load { connections: 32, keep_alive: false },
];
const PLACES: [&str; 2] = ["TCP", "Unix"];
/// A server that has started may still have something to do.
const SETTLING_TIME: Duration = Duration::from_millis(200);

fn main() {
    bare::run_if_asked();
    let arguments = Arguments::read();
    let files = Files::new();
    let servers = Servers::start(&files);
    thread::sleep(SETTLING_TIME);
    let idle: Vec<f64> = servers.programs().map(Program::memory).collect();

    let mut rows = rows(&servers, &files.site.bucket);
    arguments.select(&mut rows);
    let Arguments { rounds, seconds, .. } = arguments;
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}: {} rows of {seconds} s", rows.len());
        for row in &mut rows {
            row.sample(round, Duration::from_secs_f64(seconds));
        }
    }

    println!(
        "Medians of {rounds} round(s) of {seconds} s a row; the client is one thread on the same \
         machine. Log lines go to\n/dev/null, the record of `UPLOAD_LOG` to {}.\n",
        files.record.display()
    );
    match requests::other_binary() {
        Some(other) => {
            println!("New: {}; other: {}.\n", binary().display(), other.display());
            table::print_comparison(&rows);
        }
        None => table::print(&rows),
    }
    println!("\n| | memory idle, MB | after these rows, MB |\n|---|---|---|");
    for (program, idle) in servers.programs().zip(idle) {
        println!("| {} | {idle:.1} | {:.1} |", program.name, program.memory());
    }
}

struct Arguments {
    rounds: u32,
    seconds: f64,
    /// Parts of the names of rows; none selects all rows.
    wanted: Vec<String>,
}

impl Arguments {
    fn read() -> Arguments {
        let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
        let mut arguments = Arguments { rounds: 3, seconds: 2.0, wanted: Vec::new() };
        for (at, word) in words.into_iter().enumerate() {
            match (at, word.parse::<u32>(), word.parse::<f64>()) {
                (0, Ok(rounds), _) if rounds > 0 => arguments.rounds = rounds,
                (1, _, Ok(seconds)) if seconds > 0.0 => arguments.seconds = seconds,
                _ => arguments.wanted.push(word),
            }
        }
        arguments
    }

    /// Keeps the rows that are asked for, and those of the bare loop that they are compared with.
    fn select(&self, rows: &mut Vec<Row>) {
        let is_wanted = |row: &Row| {
            let name = row.to_string();
            self.wanted.is_empty() || self.wanted.iter().any(|part| name.contains(part))
        };
        let wanted = rows.iter().filter(|row| is_wanted(row));
        let references: Vec<_> = wanted.map(Row::reference).collect();
        assert!(!references.is_empty(), "no row's name contains any of {:?}", self.wanted);
        let is_reference = |row: &Row| row.is_bare() && references.contains(&row.reference());
        rows.retain(|row| is_wanted(row) || is_reference(row));
    }
}

/// What the servers read and write.
struct Files {
    /// Its folder is one of the system's: sockets need a short path.
    site: Site,
    /// Beside the binary, on a disk that syncs: the system's folder may be memory.
    record: PathBuf,
}

impl Files {
    fn new() -> Files {
        let record = binary().with_file_name(format!("bench-load-{}", std::process::id()));
        fs::create_dir_all(&record).expect("a folder");
        Files { site: Site::new(&[]), record }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.record);
    }
}

#[derive(Clone, Copy)]
enum Configuration {
    Plain,
    Tickets,
    Recording,
}

/// One configuration on one kind of socket.
struct Target {
    place: &'static str,
    program: Program,
    /// The same with the other binary.
    other: Option<Program>,
}

/// Each configuration on both kinds of socket.
struct Servers {
    plain: [Target; 2],
    tickets: [Target; 2],
    recording: [Target; 2],
    /// Not there if two binaries are compared.
    bare: Option<Target>,
}

impl Servers {
    fn start(files: &Files) -> Servers {
        let other = requests::other_binary();
        let targets = |configuration| {
            PLACES.map(|place| Target {
                place,
                program: start_server(files, &binary(), place, configuration, ""),
                other: other
                    .as_deref()
                    .map(|path| start_server(files, path, place, configuration, ", other")),
            })
        };
        let bare = || Target { place: bare::NAME, program: bare::start(), other: None };
        Servers {
            plain: targets(Configuration::Plain),
            tickets: targets(Configuration::Tickets),
            recording: targets(Configuration::Recording),
            bare: other.is_none().then(bare),
        }
    }

    fn programs(&self) -> impl Iterator<Item = &Program> {
        let targets = self.plain.iter().chain(&self.tickets).chain(&self.recording);
        let targets = targets.chain(&self.bare);
        targets.flat_map(|target| [&target.program].into_iter().chain(&target.other))
    }
}

fn start_server(
    files: &Files,
    binary: &Path,
    place: &str,
    configuration: Configuration,
    suffix: &str,
) -> Program {
    let name = match configuration {
        Configuration::Plain => format!("{place}{suffix}"),
        Configuration::Tickets => format!("{place}, tickets{suffix}"),
        Configuration::Recording => format!("{place}, `UPLOAD_LOG`{suffix}"),
    };
    let file_name = name.replace([' ', ',', '`'], "-");
    let folder = &files.site.folder;
    let address = match place {
        "TCP" => Place::free_port(),
        _ => Place::Unix(folder.path(&format!("{file_name}.sock")).into()),
    };
    let mut command = Command::new(binary);
    command.env_clear().envs(requests::variables(&folder.path("key.pem"))).envs([requests::SECRET]);
    match configuration {
        Configuration::Plain => {}
        Configuration::Tickets => {
            command.envs([requests::TICKETS]);
        }
        Configuration::Recording => {
            let folder = files.record.join(&file_name);
            fs::create_dir(&folder).expect("a folder");
            command.env("UPLOAD_LOG", folder);
        }
    }
    command.args(address.arguments());
    Program::start(&name, address, command, requests::HEALTH)
}

struct Row<'a> {
    /// Of the request and the place, as in `callback, TCP`.
    name: String,
    load: Load,
    request: Vec<u8>,
    target: &'a Target,
    samples: Vec<Sample>,
    /// Of the other binary, one for each of `samples`.
    other_samples: Vec<Sample>,
}

impl Row<'_> {
    /// Both binaries within seconds. The order changes from round to round, so that what the row
    /// before leaves behind (pages to write, a busy neighbour) does not always hit the same one.
    fn sample(&mut self, round: u32, time: Duration) {
        let Target { program, other, .. } = self.target;
        let measured = |program| measure(program, &self.request, self.load, time);
        match other {
            None => self.samples.push(measured(program)),
            Some(other) if round % 2 == 1 => {
                self.samples.push(measured(program));
                self.other_samples.push(measured(other));
            }
            Some(other) => {
                self.other_samples.push(measured(other));
                self.samples.push(measured(program));
            }
        }
    }

    fn is_bare(&self) -> bool {
        self.target.place == bare::NAME
    }

    /// What a row has in common with the row of the bare loop that it is compared with.
    fn reference(&self) -> (bool, Load) {
        (self.request.starts_with(b"POST"), self.load)
    }
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "{}, {}", self.name, self.load)
    }
}

/// All rows, in the table's order.
fn rows<'a>(servers: &'a Servers, bucket: &Standin) -> Vec<Row<'a>> {
    let Servers { plain, tickets, recording, bare } = servers;
    let (policy, policy_v4) = (requests::POLICY.to_vec(), requests::POLICY_V4.to_vec());
    let callback = requests::signed_callback(bucket);
    let kinds = [
        ("`GET /`", policy, plain, bare),
        ("`GET` V4", policy_v4, plain, &None),
        ("`GET /` with a ticket", requests::policy_with_ticket(), tickets, &None),
        ("callback", callback.clone(), plain, bare),
        // One and the same, so that it is known: `--bench record` has new lines.
        ("replayed callback, `UPLOAD_LOG`", callback, recording, &None),
    ];
    let mut rows = Vec::new();
    for load in LOADS {
        for (what, request, targets, bare) in &kinds {
            for target in targets.iter().chain(*bare) {
                let name = format!("{what}, {}", target.place);
                let request = match load.keep_alive {
                    true => request.clone(),
                    false => closing(request),
                };
                let (samples, other_samples) = (Vec::new(), Vec::new());
                rows.push(Row { name, load, request, target, samples, other_samples });
            }
        }
    }
    rows
}
