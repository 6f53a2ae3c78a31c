//! Tokens as statements: words, and perhaps a block of more statements.

use std::path::Path;

use super::lexer::{Place, Token, Tokens};
use crate::import::Problem;
use crate::import::draft::Note;

/// keepalived has five levels; a file that goes deeper is something else.
const DEPTH_MAX: usize = 16;

/// A keyword with its arguments and its block.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) place: Place,
    /// At least one.
    pub(super) words: Vec<String>,
    pub(super) block: Option<Vec<Statement>>,
}

impl Statement {
    pub(super) fn keyword(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    pub(super) fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    pub(super) fn argument(&self) -> Option<&str> {
        self.words.get(1).map(String::as_str)
    }

    pub(super) fn block(&self) -> &[Statement] {
        self.block.as_deref().unwrap_or_default()
    }

    /// As it was written, and where.
    pub(super) fn text(&self) -> String {
        format!("{} ({})", self.words.join(" "), self.place.text())
    }

    pub(super) fn note(&self, why: impl Into<String>) -> Note {
        Note::new(self.text(), why)
    }
}

/// A file as statements, with notes and problems met on the way.
pub(super) fn parse(path: &Path, text: &str) -> (Vec<Statement>, Vec<Note>, Vec<Problem>) {
    let Tokens { tokens, notes, mut problems, .. } = Tokens::read(path, text);
    let mut problem = |place: &Place, message: String| {
        let name = place.included.as_deref().map_or_else(|| path.display().to_string(), str::to_owned);
        problems.push(Problem { name, line: place.line, message });
    };
    let mut open: Vec<Statement> = Vec::new();
    let mut done: Vec<Statement> = Vec::new();
    let mut words: Option<Statement> = None;
    for (place, token) in tokens {
        match token {
            Token::Word(word) => match &mut words {
                Some(statement) => statement.words.push(word),
                None => words = Some(Statement { place, words: vec![word], block: None }),
            },
            Token::End => end(words.take(), &mut open, &mut done),
            Token::Open => {
                // The brace may stand on a line of its own.
                let before =
                    words.take().or_else(|| last(&mut open, &mut done).pop_if(|last| last.block.is_none()));
                match before {
                    Some(statement) if open.len() < DEPTH_MAX => {
                        open.push(Statement { block: Some(Vec::new()), ..statement });
                    }
                    Some(_) => {
                        problem(&place, format!("blocks lie deeper than {DEPTH_MAX}"));
                        return (Vec::new(), notes, problems);
                    }
                    None => problem(&place, "`{` without a keyword before it".to_owned()),
                }
            }
            Token::Close => {
                end(words.take(), &mut open, &mut done);
                match open.pop() {
                    Some(closed) => end(Some(closed), &mut open, &mut done),
                    None => problem(&place, "`}` that closes nothing".to_owned()),
                }
            }
        }
    }
    end(words, &mut open, &mut done);
    for statement in open {
        problem(&statement.place, format!("the block of `{}` is not closed", statement.words.join(" ")));
    }
    (done, notes, problems)
}

fn end(statement: Option<Statement>, open: &mut [Statement], done: &mut Vec<Statement>) {
    last(open, done).extend(statement);
}

/// The statements of the block that is open.
fn last<'a>(open: &'a mut [Statement], done: &'a mut Vec<Statement>) -> &'a mut Vec<Statement> {
    match open.last_mut().and_then(|statement| statement.block.as_mut()) {
        Some(block) => block,
        None => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<String> {
        parse(Path::new("x"), text).2.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn blocks_begin_and_end_anywhere() {
        let (statements, _, problems) = parse(Path::new("x"), "a b\n{\n c { d e }\n f }\ng { h\n i }");
        assert_eq!(problems, []);
        let [a, g] = &statements[..] else { panic!("{statements:?}") };
        assert_eq!((a.keyword(), a.arguments().len(), a.block().len()), ("a", 1, 2));
        assert_eq!(a.block()[0].block()[0].words, ["d", "e"]);
        assert_eq!(g.block()[1].text(), "i (line 6)");
    }

    #[test]
    fn braces_without_their_other_half_are_told() {
        assert_eq!(messages("a {\nb {\n}"), ["x:1: the block of `a` is not closed"]);
        assert_eq!(messages("}"), ["x:1: `}` that closes nothing"]);
        assert_eq!(messages("{"), ["x:1: `{` without a keyword before it"]);
        assert_eq!(messages(&"a {\n".repeat(1_000)).len(), 1);
    }
}
