//! Manual pages and completions of a command line, made from its definition, so that they never say anything else than `--help`.
//!
//! Packages install them. Where they go, and who asks for them, is decided elsewhere.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// The name of the collection, at the top of each page.
const MANUAL: &str = "onwire";

/// The script that completes this command in a shell.
pub fn completions(mut command: Command, shell: Shell) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    script
}

/// A page of the manual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The name of its file, such as `onwire-run.1`.
    pub file: String,
    /// Its text, for `man`.
    pub text: Vec<u8>,
}

impl Page {
    /// Writes it into a directory, over what is there.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        fs::write(directory.join(&self.file), &self.text)
    }

    /// The page of a file format, section 5: `summary` and the text of a file that explains itself.
    pub fn of_file(name: &str, summary: &str, text: &str) -> Self {
        let mut page = Roff::new();
        page.control("TH", [name, "5", "", concat!("onwire ", env!("CARGO_PKG_VERSION")), MANUAL]);
        page.control("SH", ["NAME"]);
        page.text([roman(format!("{name} - {summary}"))]);
        page.control("SH", ["DESCRIPTION"]);
        verbatim(&mut page, text.lines());
        Self { file: format!("{name}.5"), text: page.render().into_bytes() }
    }
}

/// The pages of a command and of all its subcommands, section 1. Hidden ones have none.
pub fn pages(command: Command) -> Vec<Page> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, "", &mut pages);
    pages
}

fn add_pages(command: &Command, above: &str, pages: &mut Vec<Page>) {
    pages.push(page(command, above));
    let name = display_name(command);
    for shown in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        add_pages(shown, &name, pages);
    }
}

fn display_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn page(command: &Command, above: &str) -> Page {
    let source = concat!("onwire ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(source).manual(MANUAL);
    let mut text = Vec::new();
    let written = man
        .render_title(&mut text)
        .and_then(|()| man.render_name_section(&mut text))
        .and_then(|()| man.render_synopsis_section(&mut text))
        .and_then(|()| man.render_description_section(&mut text))
        .and_then(|()| match command.get_arguments().any(|argument| !argument.is_hide_set()) {
            true => man.render_options_section(&mut text),
            false => Ok(()),
        })
        .and_then(|()| match command.get_subcommands().any(|command| !command.is_hide_set()) {
            true => man.render_subcommands_section(&mut text),
            false => Ok(()),
        });
    written.expect("a page is written to memory");
    if let Some(further) = command.get_after_help() {
        text.extend(further_sections(&further.to_string()).render().into_bytes());
    }
    if !above.is_empty() {
        let mut also = Roff::new();
        also.control("SH", ["SEE ALSO"]);
        also.control("BR", [above, "(1)"]);
        text.extend(also.render().into_bytes());
    }
    Page { file: man.get_filename(), text }
}

/// The text behind the options: examples keep their lines, everything else is paragraphs.
fn further_sections(text: &str) -> Roff {
    let mut page = Roff::new();
    let mut lines = text.lines().peekable();
    let mut section = "";
    while let Some(line) = lines.next() {
        let is_heading = line.ends_with(':') && lines.peek().is_some_and(|next| next.starts_with(' '));
        let wanted = if is_heading { "EXAMPLES" } else { "NOTES" };
        if line.is_empty() {
            continue;
        }
        if section != wanted {
            page.control("SH", [wanted]);
            section = wanted;
        } else {
            page.control("PP", []);
        }
        if line != "Examples:" {
            page.text([roman(line)]);
        }
        let mut kept = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with(' ')) {
            kept.push(line.strip_prefix("  ").unwrap_or(line));
        }
        if !kept.is_empty() {
            verbatim(&mut page, kept.into_iter());
        }
    }
    page
}

/// Lines as they are, in a font of one width where there is one.
fn verbatim<'a>(page: &mut Roff, lines: impl Iterator<Item = &'a str>) {
    page.control("EX", []);
    for line in lines {
        page.text([roman(line)]);
    }
    page.control("EE", []);
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn examples_keep_their_lines_and_all_else_is_a_paragraph() {
        let command = Command::new("tool")
            .about("Does it")
            .arg(Arg::new("x").long("x").help("The x"))
            .after_help("Examples:\n  tool --x 1    once\n  tool          never\n\nMore of it.\nExit codes: 0 good")
            .subcommand(Command::new("sub").about("Part"))
            .subcommand(Command::new("secret").hide(true));
        let pages = pages(command);
        assert_eq!(pages.iter().map(|page| page.file.as_str()).collect::<Vec<_>>(), ["tool.1", "tool-sub.1"]);
        let text = String::from_utf8(pages[0].text.clone()).unwrap();
        let wanted = ".SH EXAMPLES\n.EX\ntool \\-\\-x 1    once\ntool          never\n.EE\n.SH NOTES\nMore of it.\n.PP\nExit codes: \
                      0 good\n";
        assert!(text.contains(wanted), "{text}");
        assert!(text.contains("The x") && !text.contains("secret"), "{text}");
        let sub = String::from_utf8(pages[1].text.clone()).unwrap();
        assert!(sub.contains(".BR tool (1)"), "{sub}");
    }

    #[test]
    fn the_page_of_a_file_shows_each_line() {
        let page = Page::of_file("tool.yaml", "its file", "# A: 1\n.b: 2\n\nc: '3'\n");
        assert_eq!(page.file, "tool.yaml.5");
        let text = String::from_utf8(page.text).unwrap();
        assert!(text.contains("tool.yaml \\- its file") && text.contains("\n# A: 1\n\\&.b: 2\n"), "{text}");
    }
}
