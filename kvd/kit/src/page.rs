//! The HTML report: one file that holds everything it shows, for a browser, a printer or a mail.
//!
//! No scripts, no fonts, no addresses: a report must open in ten years and on a machine without a network. It follows the
//! reader's light or dark setting. What is given here is text; escaping is the template's business.

pub mod plot;

use askama::Template;
use plot::Plot;

/// A report.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Name of the report; also the title of the browser's window.
    pub title: String,
    /// One sentence with the result. May be empty.
    pub lead: String,
    /// What was examined, and where: name and value.
    pub facts: Vec<(String, String)>,
    /// The rest, in order.
    pub sections: Vec<Section>,
}

/// A part of a report with a heading.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// What is below it, in order.
    pub parts: Vec<Part>,
}

/// Something below a heading.
#[derive(Debug, Clone)]
pub enum Part {
    /// A paragraph.
    Text(String),
    /// Lines as they are, in letters of one width.
    Lines(String),
    /// A table.
    Table(Table),
    /// A chart.
    Plot(Plot),
}

/// A table: every row has as many cells as the head has names.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Names of the columns.
    pub head: Vec<String>,
    /// Rows, in order.
    pub rows: Vec<Vec<Cell>>,
}

/// One cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A name of something in a program or on a command line.
    Code(String),
    /// A number with its unit, at the right.
    Number(String),
    /// A verdict: a word that stands out.
    Badge(Mood, String),
}

/// How a verdict looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Good.
    Passed,
    /// Bad.
    Failed,
    /// Neither: not examined.
    Skipped,
    /// Good, but the reader should know.
    Warning,
}

impl Mood {
    fn class(self) -> &'static str {
        match self {
            Mood::Passed => "passed",
            Mood::Failed => "failed",
            Mood::Skipped => "skipped",
            Mood::Warning => "warning",
        }
    }
}

#[derive(Template)]
#[template(path = "page.html")]
struct Frame<'a> {
    page: &'a Page,
    version: &'static str,
    axis: &'static str,
    grid: &'static str,
}

impl Page {
    /// A report with nothing below its title yet.
    pub fn new(title: impl Into<String>) -> Page {
        Page { title: title.into(), ..Page::default() }
    }

    /// Adds a fact.
    pub fn fact(&mut self, name: impl Into<String>, value: impl ToString) {
        self.facts.push((name.into(), value.to_string()));
    }

    /// Adds a section.
    pub fn section(&mut self, title: impl Into<String>, parts: Vec<Part>) {
        self.sections.push(Section { title: title.into(), parts });
    }

    /// The whole file.
    pub fn render(&self) -> String {
        let frame = Frame { page: self, version: env!("CARGO_PKG_VERSION"), axis: plot::AXIS, grid: plot::GRID };
        frame.render().expect("writing to a text cannot fail")
    }
}

impl Table {
    /// A table without rows.
    pub fn new<'a>(head: impl IntoIterator<Item = &'a str>) -> Table {
        Table { head: head.into_iter().map(str::to_owned).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// When it has not one cell for each column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.head.len(), "one cell for each column of {:?}", self.head);
        self.rows.push(cells);
    }
}

impl From<Table> for Part {
    fn from(table: Table) -> Part {
        Part::Table(table)
    }
}

impl From<Plot> for Part {
    fn from(plot: Plot) -> Part {
        Part::Plot(plot)
    }
}

impl From<&str> for Part {
    fn from(text: &str) -> Part {
        Part::Text(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let mut page = Page::new("A <report>");
        page.fact("device", "/dev/a & b");
        let mut table = Table::new(["check", "verdict"]);
        table.row(vec![Cell::Code("bytes".into()), Cell::Badge(Mood::Failed, "\"failed\" <script>".into())]);
        page.section("Checks", vec!["One".into(), table.into()]);
        page
    }

    #[test]
    fn what_is_given_is_text_and_never_markup() {
        let html = page().render();
        assert!(!html.contains("<script>") && !html.contains("A <report>"), "{html}");
        assert!(html.contains("A &#60;report&#62;") && html.contains("/dev/a &#38; b"), "{html}");
    }

    #[test]
    fn a_page_asks_for_nothing_from_elsewhere() {
        let html = page().render();
        for foreign in ["src=", "href=", "url(", "@import", "<script"] {
            assert!(!html.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_verdict_has_the_class_of_its_mood() {
        assert!(page().render().contains("class=\"badge failed\""));
    }

    #[test]
    #[should_panic(expected = "one cell for each column")]
    fn a_row_that_does_not_fit_its_table_is_refused() {
        Table::new(["one"]).row(Vec::new());
    }
}
