//! The rows of the load bench as Markdown.

use crate::Row;
use crate::measure::Sample;

/// One binary beside the bare loop.
pub fn print(rows: &[Row]) {
    println!(
        "| | connections | requests/s | p50 µs | p99 µs | CPU µs/request | the client's | \
         memory MB | of the bare loop |\n|---|---|---|---|---|---|---|---|---|"
    );
    for row in rows {
        let of = |value: fn(&Sample) -> f64| median(row.samples.iter().map(value));
        let is_reference = |other: &&Row| other.is_bare() && other.reference() == row.reference();
        let reference = rows.iter().find(is_reference).expect("a row of the bare loop");
        println!(
            "| {} | {} | {} | {} | {} | {:.0} | {:.0} | {:.1} | {:.2} |",
            row.name,
            row.load,
            grouped(of(|sample| sample.per_second)),
            grouped(of(|sample| sample.p50)),
            grouped(of(|sample| sample.p99)),
            of(|sample| sample.server_cpu),
            of(|sample| sample.client_cpu),
            of(|sample| sample.memory),
            median(ratios(&row.samples, &reference.samples).into_iter()),
        );
    }
}

/// The new binary beside the other one.
pub fn print_comparison(rows: &[Row]) {
    println!(
        "| | connections | requests/s, new | other | CPU µs/request, new | other | p99 µs, new | \
         other | requests/s, new/other | round by round | least to most | CPU, new/other |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    for row in rows {
        let of = |value: fn(&Sample) -> f64| {
            let medians = [&row.samples, &row.other_samples];
            medians.map(|samples| median(samples.iter().map(value)))
        };
        let [new_speed, other_speed] = of(|sample| sample.per_second);
        let [new_cpu, other_cpu] = of(|sample| sample.server_cpu);
        let [new_p99, other_p99] = of(|sample| sample.p99);
        let mut pairs = ratios(&row.samples, &row.other_samples);
        pairs.sort_by(f64::total_cmp);
        println!(
            "| {} | {} | {} | {} | {new_cpu:.1} | {other_cpu:.1} | {} | {} | {:.2} | {:.2} | \
             {:.2} to {:.2} | {:.2} |",
            row.name,
            row.load,
            grouped(new_speed),
            grouped(other_speed),
            grouped(new_p99),
            grouped(other_p99),
            new_speed / other_speed,
            median(pairs.iter().copied()),
            pairs.first().expect("a round"),
            pairs.last().expect("a round"),
            new_cpu / other_cpu,
        );
    }
}

/// Round by round, so that a slow minute slows both sides.
fn ratios(samples: &[Sample], others: &[Sample]) -> Vec<f64> {
    let pairs = samples.iter().zip(others);
    pairs.map(|(sample, other)| sample.per_second / other.per_second).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

/// Whole, as in `12,345`.
fn grouped(value: f64) -> String {
    let value = value.round() as u64;
    if value < 1000 { value.to_string() } else { format!("{},{:03}", value / 1000, value % 1000) }
}
