//! What is wrong with a rules file: every problem, each with its place in the source, printed as rustc prints
//! its own.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::near::nearest;

/// One thing that is wrong, on its way to becoming a part of [`Diagnostics`]. Boxed, because every value's
/// parser returns a `Result` with it.
#[derive(Debug)]
pub(super) struct Problem(Box<Parts>);

#[derive(Debug)]
struct Parts {
    /// What is wrong with the value, the value included.
    message: String,
    /// Bytes of the source it is about; none when it is about the file as a whole.
    span: Option<Range<usize>>,
    /// Stands beside the caret: the near name, or what the caret points at.
    label: String,
    /// Another place that matters, and why.
    context: Option<(Range<usize>, String)>,
    /// What is allowed, or what to do.
    help: Option<String>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        let (message, label) = (message.into(), String::new());
        Self(Box::new(Parts { message, span: None, label, context: None, help: None }))
    }

    pub(super) fn at(mut self, span: Range<usize>) -> Self {
        self.0.span = Some(span);
        self
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.0.label = label.into();
        self
    }

    /// "did you mean", when one of `candidates` is near to what was written.
    pub(super) fn near<'a>(self, written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(written, candidates) {
            Some(meant) => self.label(format!("did you mean `{meant}`?")),
            None => self,
        }
    }

    pub(super) fn context(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.0.context = Some((span, label.into()));
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// The same about a place in another file, which its message begins with.
    pub(super) fn within(mut self, place: &str) -> Self {
        self.0.message.insert_str(0, &format!("{place}: "));
        self
    }

    fn start(&self) -> usize {
        self.0.span.as_ref().map_or(0, |span| span.start)
    }

    fn group<'a>(&'a self, name: &'a str, source: &'a str) -> Group<'a> {
        let Parts { message, span, label, context, help } = &*self.0;
        let group = Group::with_title(Level::ERROR.primary_title(message.as_str()));
        let group = match span {
            None => group.element(Origin::path(name)),
            Some(span) => {
                let primary = AnnotationKind::Primary.span(span.clone());
                let primary = if label.is_empty() { primary } else { primary.label(label.as_str()) };
                let context = context
                    .iter()
                    .map(|(span, label)| AnnotationKind::Context.span(span.clone()).label(label.as_str()));
                group.element(Snippet::source(source).path(name).annotation(primary).annotations(context))
            }
        };
        match help {
            None => group,
            Some(help) => group.element(Level::HELP.message(help.as_str())),
        }
    }
}

/// Collects problems while the rest of the file is looked at all the same.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value; or nothing, with the problem noted at `span`.
    pub(super) fn take<T>(&mut self, span: Range<usize>, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.push(problem.at(span))).ok()
    }
}

/// Every problem of one rules file, in the order of the file.
///
/// `Display` is one line without a source excerpt ("rules.toml: 5 errors"), to stand in a chain of causes;
/// [`plain`](Self::plain) and [`coloured`](Self::coloured) are the whole report.
#[derive(Debug)]
pub struct Diagnostics {
    name: String,
    source: String,
    problems: Vec<Problem>,
}

impl Diagnostics {
    pub(super) fn new(name: &str, source: &str, problems: Problems) -> Self {
        let mut problems = problems.0;
        // A later table may be checked before an earlier one; the reader goes from top to bottom. Stable: one
        // value's problems stay in the order they were found.
        problems.sort_by_key(Problem::start);
        Self { name: name.to_owned(), source: source.to_owned(), problems }
    }

    /// How many errors there are: at least one.
    pub fn count(&self) -> usize {
        self.problems.len()
    }

    /// The report without colour, for logs and pipes. Ends with a newline.
    pub fn plain(&self) -> String {
        self.render(&Renderer::plain())
    }

    /// The report with ANSI colours, for a terminal. Ends with a newline.
    pub fn coloured(&self) -> String {
        self.render(&Renderer::styled())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let each = |problem: &Problem| renderer.render(&[problem.group(&self.name, &self.source)]) + "\n\n";
        self.problems.iter().map(each).collect()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.count() == 1 { "" } else { "s" };
        write!(f, "{}: {} error{plural}", self.name, self.count())
    }
}

impl std::error::Error for Diagnostics {}
