//! The further text of `--help`, wrapped at the width of the terminal.
//!
//! In the source a paragraph has lines of a readable length. Wrapped as they are, they would leave one long and one short line
//! in turns. So the lines of a paragraph become one, which clap then wraps. Examples, which are indented, keep their lines.

use clap::Command;

/// A line as long as this goes on in the next one; a shorter one ends where its author wanted.
const GOES_ON: usize = 90;
/// What is indented like this goes on with the line before. Examples are indented less.
const INDENTED: &str = "        ";

/// The command with such texts, in it and in its subcommands.
pub fn with_paragraphs(mut command: Command) -> Command {
    if let Some(text) = command.get_after_help().map(ToString::to_string) {
        command = command.after_help(paragraphs(&text));
    }
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_paragraphs))
}

/// The text with one line for each paragraph.
fn paragraphs(text: &str) -> String {
    let mut joined = String::new();
    let mut before = "";
    for line in text.lines() {
        let goes_on = before.chars().count() >= GOES_ON && !line.is_empty() && !begins(line);
        if goes_on {
            joined.push(' ');
            joined.push_str(line.trim_start());
        } else {
            if !joined.is_empty() {
                joined.push('\n');
            }
            joined.push_str(line);
        }
        before = line;
    }
    joined
}

/// The line begins something: an example, or what has a name, as `Exit codes: 0 good`.
fn begins(line: &str) -> bool {
    if line.starts_with(' ') {
        return !line.starts_with(INDENTED);
    }
    let name = line.split_once(": ").map_or("", |(name, _)| name);
    let is_word = |c: char| c.is_ascii_alphabetic() || c == ' ';
    line.starts_with(|c: char| c.is_ascii_uppercase())
        && !name.is_empty()
        && name.len() < 20
        && name.chars().all(is_word)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_lines_of_a_paragraph_become_one() {
        let long = "x".repeat(GOES_ON);
        for (text, joined) in [
            (format!("{long}\nand more\nshort\nlines"), format!("{long} and more\nshort\nlines")),
            (format!("{long}\n\nnext"), format!("{long}\n\nnext")),
            (format!("{long}\nExit codes: 0 good"), format!("{long}\nExit codes: 0 good")),
            (format!("{long}\nThen it goes on: there"), format!("{long}\nThen it goes on: there")),
            (format!("{long}\nwith more: there"), format!("{long} with more: there")),
            (format!("  {long}\n  onwire run"), format!("  {long}\n  onwire run")),
            (format!("JSON: {{ {long}\n        more }}"), format!("JSON: {{ {long} more }}")),
        ] {
            assert_eq!(paragraphs(&text), joined);
        }
    }

    #[test]
    fn the_texts_of_subcommands_have_paragraphs_too() {
        let mut command = with_paragraphs(Cli::command().term_width(2000));
        command.build();
        let help = command.find_subcommand_mut("wait").unwrap().render_help().to_string();
        let paragraph = help.lines().find(|line| line.starts_with("It counts")).unwrap();
        assert!(paragraph.contains("prolong the wait.") && paragraph.ends_with("with --allow-none."), "{help}");
        assert!(help.contains("\n  onwire wait --to mirror --json | jq .flows\n"), "{help}");
        assert!(help.contains("\nExit codes: 0 protected"), "{help}");
    }
}
