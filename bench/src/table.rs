//! What was measured, as one table.

/// The bound that a figure should keep.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Ours over theirs at least.
    Ratio(f64),
    /// Ours over theirs at most.
    RatioAtMost(f64),
    /// Ours at least.
    AtLeast(f64),
    /// Ours at most.
    AtMost(f64),
    /// Only told.
    None,
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    theirs: Option<f64>,
    ours: f64,
    ratio: Option<f64>,
    target: Target,
}

/// The middle one of some figures.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

impl Row {
    /// Pairs measured one right after the other: medians of each, and the median of the pairs' ratios, which a machine
    /// that is slower for a while does not move.
    pub fn pairs(what: &str, pairs: &[(f64, f64)], target: Target) -> Self {
        let all = |pick: fn(&(f64, f64)) -> f64| pairs.iter().map(pick).collect::<Vec<_>>();
        Self {
            what: what.to_owned(),
            theirs: Some(median(&all(|pair| pair.0))),
            ours: median(&all(|pair| pair.1)),
            ratio: Some(median(&all(|pair| pair.1 / pair.0))),
            target,
        }
    }

    /// A figure of ours alone.
    pub fn alone(what: &str, ours: f64, target: Target) -> Self {
        Self { what: what.to_owned(), theirs: None, ours, ratio: None, target }
    }

    fn verdict(&self) -> (String, &'static str) {
        let ratio = self.ratio.unwrap_or(f64::NAN);
        let (bound, met) = match self.target {
            Target::Ratio(least) => (format!(">= {least}x"), ratio >= least),
            Target::RatioAtMost(most) => (format!("<= {most}x"), ratio <= most),
            Target::AtLeast(least) => (format!(">= {least}"), self.ours >= least),
            Target::AtMost(most) => (format!("<= {most}"), self.ours <= most),
            Target::None => return (String::new(), ""),
        };
        (bound, if met { "yes" } else { "NO" })
    }
}

fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// Prints the table in Markdown. `first` and `second` name the two columns of figures.
pub fn print(first: &str, second: &str, rows: &[Row]) {
    let width = rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
    println!(
        "| {:width$} | {first:>15} | {second:>10} | {:>7} | {:>9} | met |",
        "", "ratio", "target"
    );
    println!(
        "|{}|----------------:|-----------:|--------:|----------:|-----|",
        "-".repeat(width + 2)
    );
    for row in rows {
        let (bound, met) = row.verdict();
        println!(
            "| {:width$} | {:>15} | {:>10} | {:>7} | {bound:>9} | {met:3} |",
            row.what,
            row.theirs.map(figure).unwrap_or_default(),
            figure(row.ours),
            row.ratio.map(|ratio| format!("{ratio:.2}x")).unwrap_or_default(),
        );
    }
}
