//! Changes src/ in one place at a time, runs the tests that reach the place, and prints the changes
//! that no test misses, but for those that `survivors.txt` answers. Works in a copy under
//! target/mutants. Arguments are the files to change, like `src/app.rs`; none means all.
//!
//! All mutants are built at once (mutate.rs): a variable chooses one at run time. One run of each
//! test by itself writes down which places it reaches; of those tests a mutant gets the quickest
//! first, and the first that fails ends it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use mutate::Mutant;

mod mutate;

const PROGRAMS: [&str; 4] = ["unit", "server", "proxy", "hostile"];
/// At the same time.
const WORKERS: usize = 3;
/// Tests that take longer alone are left out.
const LONGEST_TEST: Duration = Duration::from_secs(60);
/// Tests up to this long are tried first. Only what they miss is tried on the others.
const QUICK_TEST: Duration = Duration::from_secs(6);
/// A mutant gets quick tests until they took as long together, each at its time without a mutant,
/// and slow ones for twice as long.
const BUDGET: Duration = Duration::from_secs(40);
/// What the library has besides: which mutant it is, and a file for the places that are reached.
const SWITCH: &str = "
static MUTANT: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
static TRACE: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();
static REACHED: [std::sync::atomic::AtomicBool; 4096] =
    [const { std::sync::atomic::AtomicBool::new(false) }; 4096];
#[doc(hidden)]
pub fn mutant(number: usize) -> bool {
    let chosen = *MUTANT.get_or_init(|| {
        if let Some(trace) = std::env::var_os(\"MUTANT_TRACE\") {
            let _ = TRACE.set(trace.into());
        }
        std::env::var(\"MUTANT\").ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX)
    });
    if let Some(trace) = TRACE.get() {
        let is_new = |flag: &std::sync::atomic::AtomicBool| {
            !flag.swap(true, std::sync::atomic::Ordering::Relaxed)
        };
        if REACHED.get(number).is_some_and(is_new) {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(trace);
            if let Ok(mut file) = file {
                let _ = std::io::Write::write_all(&mut file, format!(\"{number}\\n\").as_bytes());
            }
        }
    }
    chosen == number
}
";

/// A source file, its mutants, and the number of the first.
struct Source {
    path: String,
    text: String,
    first: usize,
    mutants: Vec<Mutant>,
}

/// A test: its program, its name, and how long it takes alone.
struct Test {
    program: PathBuf,
    name: String,
    takes: Duration,
    reaches: BTreeSet<usize>,
}

/// A mutant with its number and where it is.
type Candidate<'a> = (usize, &'a Source, &'a Mutant);

fn main() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the top");
    let work = top.join("target/mutants");
    copy(&top, &work);
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let sources = sources(&work, &wanted);
    let count: usize = sources.iter().map(|source| source.mutants.len()).sum();
    println!("{count} places in {} files", sources.len());
    let (left_out, programs) = build(&work, &sources);
    for worker in 0..WORKERS {
        let binary = work.join(format!("binary-{worker}"));
        let _ = fs::remove_file(&binary); // of the last run
        fs::hard_link(work.join("target/debug/appserver"), binary).expect("a name of its own");
    }
    println!("{} of them do not compile changed", left_out.len());
    let tests = trace(&work, &programs);
    println!(
        "{} tests, alone {:.0?}",
        tests.len(),
        tests.iter().map(|t| t.takes).sum::<Duration>()
    );

    let all: Vec<Candidate> = sources
        .iter()
        .flat_map(|source| {
            source.mutants.iter().enumerate().map(move |(n, m)| (source.first + n, source, m))
        })
        .filter(|(number, ..)| !left_out.contains(number))
        .collect();
    let (quick, mut slow): (Vec<Test>, Vec<Test>) =
        tests.into_iter().partition(|test| test.takes <= QUICK_TEST);
    slow.sort_by_key(|test| test.reaches.len()); // those that are about little else first
    let missed = survivors(&work, &all, &quick, BUDGET);
    println!("{} missed by quick tests", missed.len());
    let candidates: Vec<Candidate> = missed.iter().map(|at| all[*at]).collect();
    let missed = survivors(&work, &candidates, &slow, 2 * BUDGET);

    let answers = answers(&top);
    let mut survived = BTreeSet::new();
    for at in missed {
        let (number, source, mutant) = candidates[at];
        let name = format!("{}: {}", source.path, mutant.what);
        let is_reached = quick.iter().chain(&slow).any(|test| test.reaches.contains(&number));
        if !answers.contains(&name) {
            let how = if is_reached { "survived" } else { "reached by no test" };
            println!("{name} (line {}): {how}", mutant.line);
        }
        survived.insert(name);
    }
    let is_here = |name: &&String| sources.iter().any(|source| name.starts_with(&source.path));
    for name in answers.difference(&survived).filter(is_here) {
        println!("{name}: answered, but killed or gone");
    }
    let open = survived.difference(&answers).count();
    println!(
        "of {} mutants {} survived, {open} of them without an answer",
        all.len(),
        survived.len()
    );
    std::process::exit(i32::from(open > 0));
}

/// Tries each on the tests that reach it; the places in `all` of those that no test missed.
fn survivors(work: &Path, all: &[Candidate], tests: &[Test], budget: Duration) -> Vec<usize> {
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (next, missed) = (&next, &missed);
            scope.spawn(move || {
                let mut last_killer = None;
                loop {
                    let at = next.fetch_add(1, Relaxed);
                    let Some((number, source, mutant)) = all.get(at) else { break };
                    match killer(work, worker, *number, tests, budget, last_killer) {
                        None => {
                            eprintln!("not yet killed: {}: {}", source.path, mutant.what);
                            missed.lock().expect("no panic").push(at);
                        }
                        found => last_killer = found,
                    }
                }
            });
        }
    });
    let mut missed = missed.into_inner().expect("no panic");
    missed.sort_unstable();
    missed
}

/// The survivors that are answered in survivors.txt: lines that are not indented, as printed here.
fn answers(top: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(top.join("tests/mutants/survivors.txt")).expect("survivors.txt");
    text.lines().filter(|line| line.starts_with("src/")).map(str::to_owned).collect()
}

/// Copies what the build needs.
fn copy(top: &Path, work: &Path) {
    fs::create_dir_all(work).expect("a folder");
    let script = "rm -rf src tests static && tar -C \"$0\" --exclude=target -cf - Cargo.toml Cargo.lock \
        README.md LICENSE appserver.service src static tests | tar -xf -";
    let copied = Command::new("sh").args(["-ec", script]).arg(top).current_dir(work).status();
    assert!(copied.expect("sh").success());
}

/// The files of src/ with their mutants: those that are `wanted`, or all.
fn sources(work: &Path, wanted: &[String]) -> Vec<Source> {
    let (mut folders, mut paths) = (vec![work.join("src")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let (mut sources, mut first) = (Vec::new(), 0);
    for path in paths {
        let text = fs::read_to_string(&path).expect("a source file");
        let path = path.strip_prefix(work).expect("below").to_str().expect("UTF-8").to_owned();
        if !wanted.is_empty() && !wanted.contains(&path) {
            continue;
        }
        let mutants = mutate::find(&text);
        let count = mutants.len();
        sources.push(Source { path, text, first, mutants });
        first += count;
    }
    sources
}

/// Builds with all mutants but those that do not compile: these, and the paths of the programs.
fn build(work: &Path, sources: &[Source]) -> (BTreeSet<usize>, Vec<PathBuf>) {
    let library = work.join("src/lib.rs");
    let mut left_out = BTreeSet::new();
    loop {
        let mut texts = BTreeMap::new();
        for source in sources {
            let root = if source.path == "src/main.rs" { "appserver" } else { "crate" };
            let wanted = |number| !left_out.contains(&number);
            let text = mutate::render(&source.text, &source.mutants, source.first, root, &wanted);
            fs::write(work.join(&source.path), &text).expect("a copy");
            texts.insert(source.path.clone(), text);
        }
        let text = fs::read_to_string(&library).expect("a source file");
        if !text.contains(SWITCH) {
            fs::write(&library, text + SWITCH).expect("a copy");
        }
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "--locked", "--no-run", "--message-format=short", "--color=never"]);
        for program in PROGRAMS {
            cargo.args(["--test", program]);
        }
        let output = cargo.current_dir(work).env("CARGO_TARGET_DIR", work.join("target")).output();
        let output = output.expect("cargo");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            let path = |line: &str| {
                line.split_once('(')
                    .map(|(_, end)| end.trim_end_matches(')'))
                    .map(|path| work.join(path))
            };
            let lines = said.lines().filter(|line| line.trim_start().starts_with("Executable"));
            return (left_out, lines.filter_map(path).collect());
        }
        let before = left_out.len();
        for line in said.lines().filter(|line| line.contains(": error")) {
            let words: Vec<&str> = line.splitn(4, ':').collect();
            let [path, row, column, _] = words[..] else { continue };
            let (Some(text), Ok(row), Ok(column)) =
                (texts.get(path), row.parse::<usize>(), column.parse::<usize>())
            else {
                continue;
            };
            // The mutant that begins last before the end of the line, from the error on if it can be.
            let start: usize = text.split_inclusive('\n').take(row - 1).map(str::len).sum();
            let end = start + text[start..].find('\n').unwrap_or(0);
            let near = (start + column + 40).min(end);
            let before = number_before(text, near).or_else(|| number_before(text, end));
            match before.filter(|number| !left_out.contains(number)) {
                Some(number) => _ = left_out.insert(number),
                // A value that is used before may need a statement behind it.
                None => left_out.extend(statement_after(text, end)),
            }
        }
        assert!(left_out.len() > before, "the copy does not compile:\n{said}");
    }
}

/// The number of the last `mutant(NUMBER)` that begins before `end`.
fn number_before(text: &str, end: usize) -> Option<usize> {
    let mut end = end;
    while !text.is_char_boundary(end) {
        end += 1;
    }
    let at = text[..end].rfind("::mutant(")? + "::mutant(".len();
    text[at..].split(')').next()?.parse().ok()
}

/// The number of the first statement behind `start` that can be left out.
fn statement_after(text: &str, start: usize) -> Option<usize> {
    let (_, rest) = text[start..].split_once("if !crate::mutant(")?;
    rest.split(')').next()?.parse().ok()
}

/// Each test by itself without a mutant: how long it takes and what it reaches. Tests that fail
/// here (those of the source's own shape) are of no use.
fn trace(work: &Path, programs: &[PathBuf]) -> Vec<Test> {
    let mut names = Vec::new();
    for program in programs {
        let output = Command::new(program).args(["--list", "--format", "terse"]).output();
        let output = output.expect("the test's program");
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some(name) = line.strip_suffix(": test") {
                names.push((program.clone(), name.to_owned()));
            }
        }
    }
    let (next, tests) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (names, next, tests) = (&names, &next, &tests);
            scope.spawn(move || {
                while let Some((program, name)) = names.get(next.fetch_add(1, Relaxed)) {
                    let trace = work.join(format!("trace-{worker}"));
                    let _ = fs::remove_file(&trace);
                    let start = Instant::now();
                    let set = [("MUTANT_TRACE", trace.to_str().expect("UTF-8"))];
                    let passed = run(work, worker, program, name, &set, LONGEST_TEST);
                    let takes = start.elapsed();
                    if !passed {
                        println!("not used: {name}");
                        continue;
                    }
                    let text = fs::read_to_string(&trace).unwrap_or_default();
                    let reaches = text.lines().filter_map(|line| line.parse().ok()).collect();
                    let test =
                        Test { program: program.clone(), name: name.clone(), takes, reaches };
                    tests.lock().expect("no panic").push(test);
                }
            });
        }
    });
    let mut tests = tests.into_inner().expect("no panic");
    tests.sort_by_key(|test| test.takes);
    tests
}

/// The first of the tests that reach a mutant to fail with it.
fn killer(
    work: &Path,
    worker: usize,
    number: usize,
    tests: &[Test],
    budget: Duration,
    last_killer: Option<usize>,
) -> Option<usize> {
    let set = [("MUTANT", &*number.to_string())];
    let mut spent = Duration::ZERO;
    let mut reaching: Vec<usize> =
        (0..tests.len()).filter(|at| tests[*at].reaches.contains(&number)).collect();
    // What missed the neighbour first.
    reaching.sort_by_key(|at| Some(*at) != last_killer);
    for at in reaching {
        let test = &tests[at];
        spent += test.takes;
        if spent > budget {
            break;
        }
        let limit = test.takes * 6 + Duration::from_secs(3);
        if !run(work, worker, &test.program, &test.name, &set, limit) {
            return Some(at);
        }
    }
    None
}

/// Runs one test; whether it passes within `limit`. The server clears what it starts with, so the
/// binary under test is a script that sets the variables and becomes the binary.
fn run(
    work: &Path,
    worker: usize,
    program: &Path,
    name: &str,
    set: &[(&str, &str)],
    limit: Duration,
) -> bool {
    let wrapper = work.join(format!("appserver-{worker}"));
    let binary = work.join(format!("binary-{worker}"));
    let mut text = "#!/bin/sh\n".to_owned();
    for (name, value) in set {
        text += &format!("export {name}='{value}'\n");
    }
    text += &format!("exec {} \"$@\"\n", binary.display());
    // Not written over: a server of the last test may still be about to read it.
    let new = work.join(format!("new-{worker}"));
    fs::write(&new, text).expect("a script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&new, mode).expect("a script");
    fs::rename(&new, &wrapper).expect("a script");
    let mut command = Command::new(program);
    command.args(["--exact", name, "--test-threads", "1"]).current_dir(work);
    command.env("APPSERVER_BINARY", &wrapper).envs(set.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().expect("the test's program");
    let passed = wait(&mut child, limit);
    // Servers that left the group, and may spin for ever.
    let pattern = format!("^{} ", binary.display());
    let _ = Command::new("pkill").args(["-KILL", "-f", &pattern]).status();
    passed
}

/// Waits for a test, and ends it and all that it started.
fn wait(child: &mut Child, limit: Duration) -> bool {
    let start = Instant::now();
    let status = loop {
        let status = child.try_wait().expect("a child process");
        if status.is_some() || start.elapsed() > limit {
            break status;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
    let _ = child.wait();
    status.is_some_and(|status| status.success())
}
