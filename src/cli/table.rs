//! Tables for people and for pipes: within the width of a terminal; elsewhere one line a row, without a frame.

use std::io::{IsTerminal, stdout};

use comfy_table::{ContentArrangement, Table, presets};

/// A table without rows, for standard output.
pub fn for_output() -> Table {
    let width = stdout().is_terminal().then(|| rustix::termios::tcgetwinsize(stdout()).map_or(0, |size| size.ws_col));
    shaped(width)
}

/// For a terminal of this width, 0 if it does not say; `None`: for another program.
fn shaped(width: Option<u16>) -> Table {
    let mut table = Table::new();
    match width {
        None => table.load_style(presets::NOTHING),
        Some(0) => table.load_style(presets::UTF8_BORDERS_ONLY),
        Some(width) => {
            table.load_style(presets::UTF8_BORDERS_ONLY);
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(width)
        }
    };
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(width: Option<u16>) -> String {
        let mut table = shaped(width);
        table.set_header(["source", "destination", "state"]);
        table.add_row(["10.1.0.10:5432", "10.2.0.10:40404", "open for a long time, and VIOLATED from 1,234,567"]);
        table.to_string()
    }

    #[test]
    fn a_table_fits_the_terminal_and_loses_its_border_in_a_pipe() {
        for width in [60, 80, 200] {
            let text = shown(Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{width}:\n{text}");
            assert!(text.contains('│'), "{text}");
        }
        let piped = shown(None);
        assert_eq!(piped.lines().count(), 2, "one line a row:\n{piped}");
        assert!(piped.is_ascii(), "{piped}");
        let row: Vec<&str> = piped.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row[..2], ["10.1.0.10:5432", "10.2.0.10:40404"]);
        // A terminal that does not know its width gets long lines.
        assert!(shown(Some(0)).contains("VIOLATED from 1,234,567"));
    }
}
