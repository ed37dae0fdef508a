//! What the program takes: the time to its first response, its memory before and after 256
//! connections, the size of its binary. `cargo bench --bench footprint` prints Markdown;
//! `OTHER=/path/to/appserver` names a second binary, which is measured in turn.

mod client;
#[expect(dead_code, reason = "the load bench uses Unix sockets and CPU time as well")]
mod program;
#[expect(dead_code, reason = "the load bench has more requests")]
mod requests;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use client::{Client, Progress};
use program::{Place, Program};
use support::binary;
use support::world::Site;

const STARTS: usize = 21;
const LOADS: usize = 5;
const CONNECTIONS: usize = 256;
const REQUESTS_PER_CONNECTION: usize = 40;
/// Longer than a server takes to notice that its clients have gone.
const SETTLING_TIME: Duration = Duration::from_millis(200);

fn main() {
    let Site { bucket, folder, .. } = &Site::new(&[]);
    let key = folder.path("key.pem");
    let (name, secret) = requests::SECRET;
    fs::write(folder.path(&name.to_lowercase()), secret).expect("a credential");
    let credentials = folder.path("");
    let mut binaries: Vec<PathBuf> = vec![binary()];
    binaries.extend(requests::other_binary());

    match &binaries[..] {
        [_, other] => println!("Other: {}.\n\n| | new | other |\n|---|---|---|", other.display()),
        _ => println!("| | |\n|---|---|"),
    }
    // As the unit has it, and as a shell has it.
    let credential = ("CREDENTIALS_DIRECTORY", &*credentials);
    for (place, secret) in [("a credential", credential), ("the environment", requests::SECRET)] {
        let starts = in_turn(&binaries, STARTS, |binary| start(binary, &key, secret).1);
        print_row(&format!("first response, secret in {place}, ms"), 1, &starts[0]);
        print_row("memory after it, MB", 1, &starts[1]);
    }
    let callback = requests::signed_callback(bucket);
    let loads = in_turn(&binaries, LOADS, |binary| {
        let program = start(binary, &key, credential).0;
        load(&program, &callback)
    });
    print_row(&format!("memory with {CONNECTIONS} connections, MB"), 1, &loads[0]);
    print_row("memory after them, MB", 1, &loads[1]);
    let size = |path: &PathBuf| fs::metadata(path).expect("a binary").len() as f64 / 1e6;
    print_row("binary, MB", 2, &binaries.iter().map(size).collect::<Vec<_>>());
}

/// The medians of two figures, each with one value per binary. The binaries take turns, so that
/// noise hits all alike.
fn in_turn(
    binaries: &[PathBuf],
    rounds: usize,
    measure: impl Fn(&Path) -> [f64; 2],
) -> [Vec<f64>; 2] {
    let mut samples: Vec<Vec<[f64; 2]>> = binaries.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (binary, samples) in binaries.iter().zip(&mut samples) {
            samples.push(measure(binary));
        }
    }
    [0, 1].map(|figure| {
        let of_binary = |samples: &Vec<[f64; 2]>| {
            let mut values: Vec<f64> = samples.iter().map(|sample| sample[figure]).collect();
            values.sort_by(f64::total_cmp);
            values[rounds / 2]
        };
        samples.iter().map(of_binary).collect()
    })
}

/// Milliseconds to the first response, and MB of memory after it.
fn start(binary: &Path, key: &str, secret: (&str, &str)) -> (Program, [f64; 2]) {
    let place = Place::free_port();
    let mut command = Command::new(binary);
    command.env_clear().envs(requests::variables(key)).envs([secret]).args(place.arguments());
    let begin = Instant::now();
    let program = Program::start("the server", place, command, requests::POLICY);
    let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
    let memory = program.memory();
    (program, [milliseconds, memory])
}

/// Policies and callbacks in turn, a request under way on every connection. MB of memory with the
/// connections open, and after they were closed.
fn load(program: &Program, callback: &[u8]) -> [f64; 2] {
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| Client::new()).collect();
    for client in &mut clients {
        client.connect(&program.place).expect("a connection");
    }
    for request in [requests::POLICY, callback].into_iter().cycle().take(REQUESTS_PER_CONNECTION) {
        clients.iter_mut().for_each(|client| client.send(request));
        for client in &mut clients {
            while client.receive() != Progress::Whole {}
        }
    }
    let with_connections = program.memory();
    drop(clients);
    thread::sleep(SETTLING_TIME);
    [with_connections, program.memory()]
}

fn print_row(name: &str, decimals: usize, values: &[f64]) {
    let cells: String = values.iter().map(|value| format!(" {value:.decimals$} |")).collect();
    println!("| {name} |{cells}");
}
