//! Sieges: sources that each stay within their limits, and together hold all places by connections
//! that ask again and again (keep-alive), or one that opens them as fast as it can. Others are
//! served.

use std::fmt::Display;

use support::trust::callback;

use crate::*;

/// How many of a hundred valid callbacks must be answered 200 in time.
const SERVED_OF_100: usize = 97;
pub const BODY: &[u8] = b"filename=user%2Fa.txt&size=5&mimeType=text%2Fplain&bucket=examplebucket";

/// Four sources with a quarter of the places each, or one that may have all, as a proxy on this
/// machine may.
const FOUR: &[&str] = &["10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.4"];
pub const LOCAL: &[&str] = &["127.0.0.66"];

/// `MAX_CONNECTIONS`, sources, milliseconds between the requests of a connection, and what it asks.
type Row = (&'static str, &'static [&'static str], u64, &'static str);

/// The first six are those of a short run.
const ROWS: [Row; 16] = [
    ("512", FOUR, 14, "/healthz"),
    ("16", FOUR, 5, "/healthz"),
    ("64", FOUR, 14, "pipelined"),
    ("16", FOUR, 14, "callbacks"),
    ("64", FOUR, 14, "/upload.js"),
    ("512", LOCAL, 14, "/healthz"),
    ("64", FOUR, 14, "/healthz"),
    ("16", FOUR, 14, "/healthz"),
    ("64", FOUR, 5, "/healthz"),
    ("512", FOUR, 19, "/healthz"),
    ("16", FOUR, 19, "/healthz"),
    ("64", FOUR, 14, "/"),
    ("64", FOUR, 14, "/nothing"),
    ("16", FOUR, 14, "pipelined"),
    ("512", FOUR, 14, "callbacks"),
    ("16", LOCAL, 14, "/healthz"),
];

/// Sieges (keep-alive, pipelining): every connection asks again before it has waited long enough to
/// be evicted.
#[test]
fn sieges() {
    let _alone = alone();
    namespace::run("sieges::sieges", || served(ROWS[..rounds(16, 6)].iter().map(siege)));
}

/// What became of others' callbacks in a siege. If too many were lost, and the server's threads had
/// to wait for a processor that other programs had, that shows the machine, not the server: then
/// there is another siege, and the fifth counts whatever it shows.
pub fn undisturbed(is_good: fn(&Series) -> bool, siege: impl Fn() -> (Series, Duration)) -> Series {
    for _ in 1..5 {
        let (series, waited) = siege();
        if is_good(&series) || waited < 20 * SERIES_INTERVAL {
            return series;
        }
        println!("{series}; the server waited {waited:?} for a processor: once more");
    }
    siege().0
}

/// How long all threads of a process have waited for a processor (run delay).
pub fn waited(server: &Server) -> Duration {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap() {
        // One that ends meanwhile has none.
        let text = std::fs::read_to_string(thread.unwrap().path().join("schedstat"));
        let text = text.unwrap_or_default();
        nanoseconds += text.split(' ').nth(1).map_or(0, |delay| delay.parse::<u64>().unwrap());
    }
    Duration::from_nanos(nanoseconds)
}

pub fn is_served(series: &Series) -> bool {
    series.served.len() >= SERVED_OF_100
}

/// In each of these sieges enough callbacks were served.
pub fn served<T: Display>(sieges: impl IntoIterator<Item = (T, Series)>) {
    let mut failed = Vec::new();
    for (what, series) in sieges {
        if !is_served(&series) {
            failed.push(format!("{what}: {series}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Valid callbacks are sent all through a siege.
fn siege(row: &Row) -> (String, Series) {
    let (max_connections, sources, period, what) = row;
    let name = format!("{max_connections} places, {sources:?}, {period} ms, {what}");
    (name, undisturbed(is_served, || siege_once(row)))
}

fn siege_once(&(max_connections, sources, period, what): &Row) -> (Series, Duration) {
    let vars = [("MAX_CONNECTIONS", max_connections)];
    let world = World::of(Command::new(binary()), namespace::SERVER, &vars);
    let message = match what {
        "pipelined" => HEALTH.repeat(8),
        "callbacks" => {
            callback("/callback", &world.site.bucket.sign("/callback", BODY), FORM, BODY)
        }
        path => get(path, "").into_bytes(),
    };
    let places: usize = max_connections.parse().unwrap();
    let siege = |source: &&str| Siege {
        source: source.parse().unwrap(),
        address: world.address(),
        connections: places / sources.len(),
        period: Duration::from_millis(period),
        message: vec![message.clone()],
    };
    let sieges: Vec<Siege> = sources.iter().map(siege).collect();
    let before = waited(&world.server);
    let (counts, series) =
        besieged(&sieges, 2 * places, || world.callbacks_from(namespace::source(5)));
    println!("{max_connections} places, {sources:?}, {period} ms, {what}: {series}; {counts}");
    (series, waited(&world.server) - before)
}

/// Calls `then` while the sieges last: they have begun once they have had `begun` responses, or
/// have lasted a second.
pub fn besieged<T>(sieges: &[Siege], begun: usize, then: impl FnOnce() -> T) -> (Counts, T) {
    let counts = Counts::default();
    let siege = |number: usize, over: &AtomicBool| sieges[number].run(over, &counts);
    let (_, result) = beside(sieges.len(), siege, || {
        let deadline = Instant::now() + Duration::from_secs(1);
        while counts.answered.load(Relaxed) < begun && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        then()
    });
    (counts, result)
}

/// A flood from one source that connects as fast as it can: its newcomers are over its limit, and
/// others must not wait behind them in the backlog.
#[test]
fn one_source_that_connects_as_fast_as_it_can() {
    let _alone = alone();
    namespace::run("sieges::one_source_that_connects_as_fast_as_it_can", || {
        for (what, message) in [("a health check", HEALTH), ("nothing", b"")] {
            let series = undisturbed(is_served_at_once, || {
                let world = World::of(Command::new(binary()), namespace::SERVER, &[]);
                let before = waited(&world.server);
                let flood = |_, over: &AtomicBool| {
                    flood(namespace::source(1), world.address(), message, over)
                };
                let (opened, series) =
                    beside(1, flood, || world.callbacks_from(namespace::source(5)));
                println!("{opened:?} connections that ask for {what}: {series}");
                assert!(opened[0] as usize > FLOOD_KEEPS, "that is no flood");
                (series, waited(&world.server) - before)
            });
            assert!(is_served_at_once(&series), "{what}: {series}");
        }
    });
}

fn is_served_at_once(series: &Series) -> bool {
    series.served.len() == series.count && series.median() < SERVED_WITHIN / 10
}
