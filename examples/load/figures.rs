//! What was measured, for people and for programs.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// What a figure must be.
#[derive(Clone, Copy)]
pub enum Bound {
    AtLeast(f64),
    Below(f64),
}

impl Bound {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::Below(bound) => value < bound,
        }
    }

    fn describe(self, unit: &str) -> String {
        match self {
            Self::AtLeast(bound) => format!("at least {bound} {unit}"),
            Self::Below(bound) => format!("under {bound} {unit}"),
        }
    }

    fn verdict(self, value: f64) -> &'static str {
        if self.is_met(value) { "ok" } else { "MISSED" }
    }
}

struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    bound: Option<Bound>,
}

/// The figures of one scenario.
pub struct Report {
    scenario: &'static str,
    setting: String,
    figures: Vec<Figure>,
}

impl Report {
    /// `setting`: the numbers that it ran with, in words.
    pub fn new(scenario: &'static str, setting: String) -> Self {
        Self { scenario, setting, figures: Vec::new() }
    }

    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.into(), value, unit, bound: None });
    }

    pub fn add_bounded(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        bound: Option<Bound>,
    ) {
        self.figures.push(Figure { name: name.into(), value, unit, bound });
    }

    /// A figure that only a server whose process is known has.
    pub fn add_known(&mut self, name: impl Into<String>, value: Option<f64>, unit: &'static str) {
        if let Some(value) = value {
            self.add(name, value, unit);
        }
    }

    /// The middle, the slow end and the worst of latencies.
    pub fn add_latencies(&mut self, name: &str, latencies: &Latencies) {
        self.add(format!("{name}, p50"), latencies.milliseconds(0.5), "ms");
        self.add(format!("{name}, p99"), latencies.milliseconds(0.99), "ms");
        self.add(format!("{name}, worst"), latencies.milliseconds(1.0), "ms");
    }

    /// `judged`: say what is required; figures of tiny runs mean nothing.
    pub fn print(&self, judged: bool) {
        println!("{}: {}", self.scenario, self.setting);
        let width = self.figures.iter().map(|figure| figure.name.chars().count()).max().unwrap_or(0);
        for Figure { name, value, unit, bound } in &self.figures {
            print!("  {name:<width$}  {:>12} {unit:<10}", rounded(*value));
            if let Some(bound) = bound.filter(|_| judged) {
                print!("  {}: {}", bound.describe(unit), bound.verdict(*value));
            }
            println!();
        }
        println!();
    }

    fn to_json(&self, judged: bool) -> Value {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|Figure { name, value, unit, bound }| {
                let mut figure = json!({ "name": name, "value": value, "unit": unit });
                if let Some(bound) = bound.filter(|_| judged) {
                    figure["required"] = bound.describe(unit).into();
                    figure["ok"] = bound.is_met(*value).into();
                }
                figure
            })
            .collect();
        json!({ "scenario": self.scenario, "setting": self.setting, "figures": figures })
    }
}

pub fn to_json(reports: &[Report], judged: bool) -> Value {
    json!({ "reports": reports.iter().map(|report| report.to_json(judged)).collect::<Vec<_>>() })
}

/// What is required, once more and in one place.
pub fn print_bounds(reports: &[Report], quick: bool) {
    if quick {
        println!("a quick run: its figures mean nothing, and nothing is judged");
        return;
    }
    println!("required:");
    for report in reports {
        for Figure { name, value, unit, bound } in &report.figures {
            let Some(bound) = bound else { continue };
            let name = format!("{}: {name}", report.scenario);
            let (value, required) = (rounded(*value), bound.describe(unit));
            let verdict = bound.verdict(value.parse().unwrap_or(f64::NAN));
            println!("  {name:<56}  {value:>10} {unit:<6}  {required:<18}  {verdict}");
        }
    }
}

/// Three or four digits that mean something.
fn rounded(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Ten minutes, longer than anything here waits.
const LATENCY_MICROSECONDS_MAX: u64 = 600_000_000;

/// Latencies, kept to three digits.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn of(latencies: impl IntoIterator<Item = Duration>) -> Self {
        let mut histogram =
            Histogram::new_with_bounds(1, LATENCY_MICROSECONDS_MAX, 3).expect("such bounds are allowed");
        for latency in latencies {
            histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        }
        Self(histogram)
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// `quantile`: 0.5 is the median, 1 the worst.
    pub fn milliseconds(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}
