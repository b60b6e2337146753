//! What is printed: tables, JSON, names; complaints; progress that vanishes. Nothing else writes to the terminal but a
//! command that is attached to it.

use clap::ValueEnum;
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::{
    env,
    io::{self, BufRead, IsTerminal, Write},
    time::Duration,
};

use crate::failure::Failure;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// Only what a thing is called, one a line.
    Name,
}

/// One line to standard error. When even that cannot be written there is nobody to tell.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "atoll: {line}");
}

/// One line to standard error that is no complaint.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Asks the person at the terminal before something is done that cannot be undone. Where nobody would see the question or
/// could answer it, nothing is waited for.
pub fn confirm(what: &str) -> Result<(), Failure> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::Wrong(format!("this would {what}: -f is needed when not on a terminal")));
    }
    let failed = |source| Failure::io("ask", source);
    write!(io::stderr(), "This will {what}. Go on? [y/N] ").map_err(failed)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Wrong("nothing was done".into())),
    }
}

/// Text to standard output, as it is.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| Failure::io("write to standard output", source))
}

/// A value as JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::io("write JSON", io::Error::other(error)))?;
    print(&format!("{text}\n"))
}

impl Format {
    /// Prints several things: as rows below `header`, as a JSON array, or as names.
    pub fn print_all<T: Serialize>(
        self,
        items: &[T],
        header: &[&str],
        row: impl Fn(&T) -> Vec<String>,
        name: impl Fn(&T) -> &str,
    ) -> Result<(), Failure> {
        match self {
            Self::Json => print_json(&items),
            Self::Name => print(&items.iter().map(|item| format!("{}\n", name(item))).collect::<String>()),
            Self::Table => print(&table(header, items.iter().map(row).collect())),
        }
    }

    /// Prints one thing: its fields a line each, as JSON, or its name.
    pub fn print_one<T: Serialize>(
        self,
        item: &T,
        fields: impl Fn(&T) -> Vec<(&'static str, String)>,
        name: &str,
    ) -> Result<(), Failure> {
        match self {
            Self::Json => print_json(item),
            Self::Name => print(&format!("{name}\n")),
            Self::Table => print(&lines(&fields(item))),
        }
    }

    /// Prints what was done to one thing: its name is all that people need.
    pub fn print_done<T: Serialize>(self, item: &T, name: &str) -> Result<(), Failure> {
        match self {
            Self::Json => print_json(item),
            Self::Table | Self::Name => print(&format!("{name}\n")),
        }
    }
}

/// Whether colours may be used there.
pub fn colours_on(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    let arrangement = match io::stdout().is_terminal() {
        true => ContentArrangement::Dynamic,
        false => ContentArrangement::Disabled,
    };
    table.set_content_arrangement(arrangement);
    let coloured = colours_on(&io::stdout());
    for row in rows {
        table.add_row(row.into_iter().map(|text| if coloured { paint(text) } else { Cell::new(text) }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Words that say how something is are seen at a glance.
fn paint(text: String) -> Cell {
    let colour = match text.as_str() {
        "running" | "ok" => Some(Color::Green),
        "creating" | "paused" | "warn" => Some(Color::Yellow),
        "failed" | "fail" => Some(Color::Red),
        _ => None,
    };
    let cell = Cell::new(text);
    match colour {
        Some(colour) => cell.fg(colour),
        None => cell,
    }
}

fn lines(fields: &[(&'static str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

/// A line that says what is being waited for; nothing when standard error is no terminal.
pub fn spinner(text: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(text.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A bar for bytes, without an end where that is not known; nothing when standard error is no terminal.
pub fn bytes_bar(text: &str, total: Option<u64>) -> ProgressBar {
    let (bar, shape) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} {binary_bytes} {binary_bytes_per_sec}"),
    };
    styled(bar, shape).with_message(text.to_owned())
}

/// A bar from 0 to 100.
pub fn percent_bar(text: &str) -> ProgressBar {
    styled(ProgressBar::new(100), "{msg} {wide_bar} {percent:>3}%").with_message(text.to_owned())
}

fn styled(bar: ProgressBar, shape: &str) -> ProgressBar {
    match ProgressStyle::with_template(shape) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let text = table(
            &["ID", "PHASE"],
            vec![vec!["i1".into(), "running".into()], vec!["i22222".into(), String::new()]],
        );
        assert_eq!(text, "ID      PHASE\ni1      running\ni22222\n");
    }

    #[test]
    fn fields_line_up() {
        assert_eq!(lines(&[("id", "1".into()), ("phase", "x".into())]), "id     1\nphase  x\n");
    }
}
