//! What people see and are asked: tables, JSON, questions, progress. Standard output is for results alone; everything
//! else goes to standard error.

use std::{
    fs::OpenOptions,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use dtr_types::Secret;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use crate::failure::{Failure, Result, output};

/// Progress is shown for what takes longer than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes a result to standard output.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") })
        .and_then(|()| out.flush())
        .map_err(output)
}

/// Writes a result for programs.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// Says something that is not the result. Nobody may be listening, which is no error.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Text from elsewhere, made harmless for a terminal.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Rows under headings, in columns.
pub struct Table(comfy_table::Table);

impl Table {
    /// With these headings.
    pub fn new(headings: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(headings);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self(table)
    }

    /// One row more.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells.into_iter().map(|cell| harmless(&cell)).collect::<Vec<_>>());
    }

    /// Writes it to standard output.
    pub fn print(&self) -> Result<()> {
        print(&self.0.lines().map(|line| line.trim_end().to_owned() + "\n").collect::<String>())
    }
}

/// A field of an answer as text; empty where there is none.
pub fn field(value: &Value, name: &str) -> String {
    match value.pointer(&format!("/{name}")) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
        Some(other) => other.to_string(),
    }
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

fn terminal() -> Option<std::fs::File> {
    if !io::stderr().is_terminal() {
        return None;
    }
    OpenOptions::new().read(true).write(true).open("/dev/tty").ok()
}

/// Whether there is somebody to ask.
pub fn can_ask() -> bool {
    terminal().is_some()
}

/// Asks for a line on the terminal, also when standard input is something else. `instead` says how to give it otherwise.
pub fn ask(what: &str, instead: &str) -> Result<String> {
    let missing = || Failure::usage(format!("the {what} is missing: give it with {instead}"));
    let mut terminal = terminal().ok_or_else(missing)?;
    write!(terminal, "{what}: ").and_then(|()| terminal.flush()).context("cannot ask")?;
    let mut line = String::new();
    io::BufReader::new(terminal).read_line(&mut line).context("cannot read from the terminal")?;
    match line.trim() {
        "" => Err(missing()),
        line => Ok(line.to_owned()),
    }
}

/// Asks for a password on the terminal, unseen.
pub fn ask_password(what: &str, instead: &str) -> Result<Secret> {
    if terminal().is_none() {
        return Err(Failure::usage(format!(
            "the {what} is missing, and there is no terminal to ask for it: give it with {instead}"
        )));
    }
    let text = rpassword::prompt_password(format!("{what}: "));
    let secret = Secret::new(text.context("cannot read from the terminal")?);
    if secret.is_empty() {
        return Err(Failure::usage(format!("the {what} is empty")));
    }
    Ok(secret)
}

/// Asks for a new password, twice.
pub fn ask_new_password(what: &str, instead: &str) -> Result<Secret> {
    let first = ask_password(what, instead)?;
    if ask_password(&format!("{what} again"), instead)? != first {
        return Err(Failure::usage("the two passwords differ"));
    }
    Ok(first)
}

/// Asks for a yes. `flag` answers it where there is no terminal.
pub fn confirm(question: &str, flag: &str) -> Result<bool> {
    if !can_ask() {
        return Err(Failure::usage(format!(
            "there is no terminal to ask \"{question}\" on: answer it with {flag}"
        )));
    }
    let answer = ask(&format!("{question} [yes/no]"), flag)?;
    Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Bytes that go by: shown on a terminal once it takes longer than a second.
pub struct Progress {
    began: Instant,
    bytes: u64,
    what: &'static str,
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Progress {
    /// Begins, showing nothing yet.
    pub fn new(what: &'static str) -> Self {
        let quiet = !io::stderr().is_terminal();
        Self { began: Instant::now(), bytes: 0, what, bar: None, quiet }
    }

    /// So many bytes more.
    pub fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.quiet {
            return;
        }
        if self.bar.is_none() && self.began.elapsed() > PATIENCE {
            let bar = ProgressBar::no_length().with_elapsed(self.began.elapsed());
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
            let style = "{spinner} {msg}: {binary_bytes}, {binary_bytes_per_sec}, {elapsed}";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar.set_message(self.what);
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.bytes);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Something without a measure that is waited for: a spinner on a terminal, after a second.
pub async fn waiting<T>(what: &'static str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if !io::stderr().is_terminal() {
        return work.await;
    }
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(PATIENCE) => {}
    }
    let bar = ProgressBar::new_spinner().with_elapsed(PATIENCE);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    let done = work.await;
    bar.finish_and_clear();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_moves_no_cursor() {
        assert_eq!(harmless("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(u64::MAX), "16384.0 PiB");
    }
}
