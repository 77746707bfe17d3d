//! Aligned columns for people.

use std::fmt::{self, Display};

/// Spaces between two columns.
const GAP: usize = 2;

/// Rows under headings; every column is as wide as its widest cell.
#[derive(Debug, Clone, Default)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings and no rows.
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Table {
            head: head.map(str::to_owned).into(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; control characters in cells become `·`, so that foreign text cannot steer
    /// the terminal.
    pub fn row<const N: usize>(&mut self, cells: [&dyn Display; N]) {
        let printable = |c: char| if c.is_control() { '·' } else { c };
        let cells = cells.map(|cell| cell.to_string().chars().map(printable).collect());
        self.rows.push(cells.into());
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.head.iter().map(|h| h.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for row in std::iter::once(&self.head).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let used = cell.chars().count();
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - used + GAP));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_on_characters_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(["PARTY", "STATE"]);
        table.row([&"chenôve", &"ok"]);
        table.row([&"x", &""]);
        assert_eq!(table.to_string(), "PARTY    STATE\nchenôve  ok\nx\n");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        let mut table = Table::new(["TITLE"]);
        table.row([&"a\u{1b}[31mb"]);
        assert_eq!(table.to_string(), "TITLE\na·[31mb\n");
    }
}
