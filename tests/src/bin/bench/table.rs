//! The printed table. It must not know where its figures come from.

use atoll_tests::stats::Times;
use std::fmt;

/// Rows in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<[String; 4]>,
}

impl Table {
    /// Adds a figure; `target` and `note` may be empty.
    pub fn add(
        &mut self,
        figure: impl Into<String>,
        measured: impl Into<String>,
        target: &str,
        note: impl Into<String>,
    ) {
        let row = [figure.into(), measured.into(), target.to_owned(), note.into()];
        println!("measured: {} {}", row[0], row[1]);
        self.rows.push(row);
    }

    /// Adds the distribution of times.
    pub fn add_times(&mut self, figure: &str, times: &Times, target: &str) {
        let at = |percent| times.percentile(percent).map_or("-".to_owned(), |ms| format!("{ms:.1}"));
        let measured = format!("p50 {} ms, p99 {} ms", at(50), at(99));
        self.add(figure, measured, target, format!("n {}", times.count()));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["figure", "measured", "target", "note"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(&head).chain(&self.rows).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2), width(3)];
        for (number, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(f, "| {} |", cells.collect::<Vec<_>>().join(" | "))?;
            if number == 0 {
                writeln!(f, "|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"))?;
            }
        }
        Ok(())
    }
}
