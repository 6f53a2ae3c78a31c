//! keepalived's files as tokens: comments, quotes, definitions (`$NAME=`), conditional lines (`@id`) and includes are done with here.
//!
//! Read first: keepalived.conf(5), "Quoted strings" and "Conditional configuration and configuration id".

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::import::draft::Note;
use crate::import::{Problem, utf8};

/// Files that include each other end here.
const INCLUDE_DEPTH_MAX: usize = 8;
/// Definitions that double with each line end here.
const LINE_BYTES_MAX: usize = 65_536;

/// Where a token stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The file, where it is not the one that is imported.
    pub(super) included: Option<Rc<str>>,
    /// From 1 on.
    pub(super) line: usize,
}

/// What files are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    /// `{`
    Open,
    /// `}`
    Close,
    /// The end of a line.
    End,
}

/// All tokens, and what was in the way.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    pub(super) tokens: Vec<(Place, Token)>,
    pub(super) notes: Vec<Note>,
    pub(super) problems: Vec<Problem>,
    definitions: HashMap<String, String>,
}

impl Tokens {
    /// `text` is that of the file at `path`.
    pub(super) fn read(path: &Path, text: &str) -> Self {
        let mut tokens = Self::default();
        tokens.file(path, text, 0);
        tokens
    }

    fn file(&mut self, path: &Path, text: &str, depth: usize) {
        let included = (depth > 0).then(|| Rc::from(path.display().to_string()));
        for (index, line) in text.lines().enumerate() {
            let place = Place { included: included.clone(), line: index + 1 };
            let mut problem = |message: String| {
                self.problems.push(Problem { name: path.display().to_string(), line: index + 1, message });
            };
            let Some(line) = substituted(line, &self.definitions) else {
                problem(format!("the line is longer than {LINE_BYTES_MAX} bytes"));
                continue;
            };
            let line = line.trim();
            if line.starts_with('~') {
                problem("~SEQ and ~LST are not known here: write the lines out".to_owned());
                continue;
            }
            if let Some((name, value)) = definition(line) {
                if value.ends_with('\\') {
                    problem(format!(
                        "${name} goes over several lines, which is not known here: write them out"
                    ));
                }
                self.definitions.insert(name.to_owned(), value.to_owned());
                continue;
            }
            let Some(line) = self.condition(line, &place) else { continue };
            let Some(words) = split(line) else {
                self.problems.push(Problem {
                    name: path.display().to_string(),
                    line: index + 1,
                    message: "a quote is not closed".to_owned(),
                });
                continue;
            };
            match &words[..] {
                [Token::Word(include), Token::Word(pattern)] if is_include(include) => {
                    self.include(path, pattern, &place, depth);
                }
                _ => {
                    let all = words.into_iter().chain([Token::End]);
                    self.tokens.extend(all.map(|token| (place.clone(), token)));
                }
            }
        }
    }

    /// What is left of a line without its condition. Nothing tells which id keepalived is started with, so lines for an id are
    /// left out, and lines for all but one are taken.
    fn condition<'a>(&mut self, line: &'a str, place: &Place) -> Option<&'a str> {
        let Some(condition) = line.strip_prefix('@') else { return Some(line) };
        let (id, rest) = condition.split_once(char::is_whitespace)?;
        if id.starts_with('^') {
            return Some(rest);
        }
        let why = "it is for one configuration id alone: take the `@` and the id away where that is this director's";
        self.notes.push(Note::new(format!("{line} ({})", place.text()), why));
        None
    }

    fn include(&mut self, from: &Path, pattern: &str, place: &Place, depth: usize) {
        let directory = from.parent().unwrap_or(Path::new(""));
        let files = matching(&directory.join(pattern));
        let what = format!("include {pattern} ({})", place.text());
        if files.is_empty() {
            self.notes.push(Note::new(what, "there is no such file here"));
        }
        for file in files {
            if depth >= INCLUDE_DEPTH_MAX {
                let message = format!("more than {INCLUDE_DEPTH_MAX} files include each other");
                self.problems.push(Problem { name: from.display().to_string(), line: place.line, message });
                return;
            }
            let name = file.display().to_string();
            let bytes = match fs::read(&file) {
                Ok(bytes) => bytes,
                Err(error) => {
                    let message = format!("include {name}: {error}");
                    self.problems.push(Problem {
                        name: from.display().to_string(),
                        line: place.line,
                        message,
                    });
                    continue;
                }
            };
            match utf8(&name, &bytes) {
                Ok(text) => self.file(&file, text, depth + 1),
                Err(problem) => self.problems.push(problem),
            }
        }
    }
}

impl Place {
    /// For people.
    pub(super) fn text(&self) -> String {
        match &self.included {
            Some(file) => format!("{file}:{}", self.line),
            None => format!("line {}", self.line),
        }
    }
}

fn is_include(word: &str) -> bool {
    matches!(word, "include" | "includea" | "includeb" | "includem" | "includer" | "includew")
}

/// Files of a path whose last part may have `*` and `?`, sorted.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let last = pattern.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !last.contains(['*', '?']) {
        return if pattern.is_file() { vec![pattern.to_owned()] } else { Vec::new() };
    }
    let directory =
        pattern.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let fits = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // As for a shell: hidden files are not meant.
        path.is_file() && !name.starts_with('.') && glob(last.as_bytes(), name.as_bytes())
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(fits).collect();
    files.sort();
    files
}

/// Whether `pattern` with its `*` and `?` is all of `name`.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    // Of each end of what was read of the name: whether the pattern so far can have read so much.
    let mut reached = vec![false; name.len() + 1];
    reached.first_mut().into_iter().for_each(|start| *start = true);
    for wanted in pattern {
        let mut next = vec![false; name.len() + 1];
        let mut any_before = false;
        for (end, place) in next.iter_mut().enumerate() {
            any_before |= reached.get(end).copied().unwrap_or(false);
            let before = end.checked_sub(1);
            let fits = before.and_then(|at| Some((reached.get(at)?, name.get(at)?)));
            *place = match wanted {
                b'*' => any_before,
                b'?' => fits.is_some_and(|(reached, _)| *reached),
                letter => fits.is_some_and(|(reached, found)| *reached && found == letter),
            };
        }
        reached = next;
    }
    reached.last().copied().unwrap_or(false)
}

/// `$NAME=value`
fn definition(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix('$')?.split_once('=')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(is_name)).then_some((name, value.trim()))
}

/// `$NAME` and `${NAME}` as what they stand for; others stay as they are. Nothing where that is too long.
fn substituted(line: &str, definitions: &HashMap<String, String>) -> Option<String> {
    let mut out = String::new();
    let mut rest = line;
    // A definition's own name stands at the beginning.
    if definition(line.trim_start()).is_some() {
        let (head, tail) = line.split_once('=')?;
        out = format!("{head}=");
        rest = tail;
    }
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, tail) = match after.strip_prefix('{').and_then(|after| after.split_once('}')) {
            Some((name, tail)) => (name, tail),
            None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
        };
        match definitions.get(name) {
            Some(value) => {
                out.push_str(value);
                rest = tail;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
        if out.len() > LINE_BYTES_MAX {
            return None;
        }
    }
    out.push_str(rest);
    (out.len() <= LINE_BYTES_MAX).then_some(out)
}

/// The words of a line without its comment; nothing where a quote is not closed.
fn split(line: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = line.chars().peekable();
    let end_word = |word: &mut Option<String>, tokens: &mut Vec<Token>| {
        tokens.extend(word.take().map(Token::Word));
    };
    while let Some(letter) = letters.next() {
        match letter {
            '#' | '!' => break,
            '"' | '\'' => quoted(letter, &mut letters, word.get_or_insert_default())?,
            '{' | '}' => {
                end_word(&mut word, &mut tokens);
                tokens.push(if letter == '{' { Token::Open } else { Token::Close });
            }
            space if space.is_whitespace() => end_word(&mut word, &mut tokens),
            other => word.get_or_insert_default().push(other),
        }
    }
    end_word(&mut word, &mut tokens);
    Some(tokens)
}

/// What stands up to the quote that ends it.
fn quoted(quote: char, letters: &mut impl Iterator<Item = char>, word: &mut String) -> Option<()> {
    loop {
        match letters.next()? {
            end if end == quote => return Some(()),
            '\\' => word.push(match letters.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            }),
            other => word.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let tokens = Tokens::read(Path::new("keepalived.conf"), text);
        assert_eq!(tokens.problems, []);
        let text = |(_, token)| match token {
            Token::Word(word) => word,
            Token::Open => "{".to_owned(),
            Token::Close => "}".to_owned(),
            Token::End => ";".to_owned(),
        };
        tokens.tokens.into_iter().map(text).collect()
    }

    #[test]
    fn comments_quotes_and_blocks() {
        assert_eq!(words("a b # c\n! d"), ["a", "b", ";", ";"]);
        assert_eq!(words("url { path \"/a b\"'c' }"), ["url", "{", "path", "/a bc", "}", ";"]);
        assert_eq!(words("quorum_up \"/bin/sh -c 'a #b'\""), ["quorum_up", "/bin/sh -c 'a #b'", ";"]);
    }

    #[test]
    fn definitions_stand_for_their_values() {
        assert_eq!(
            words("$VIP=10.0.0.1\n$BOTH=$VIP 80\nserver ${VIP} $VIP:$NONE\nx $BOTH"),
            ["server", "10.0.0.1", "10.0.0.1:$NONE", ";", "x", "10.0.0.1", "80", ";"]
        );
    }

    #[test]
    fn lines_for_another_id_are_noted() {
        let tokens = Tokens::read(Path::new("x"), "@main weight 5\n@^main weight 6");
        assert_eq!(tokens.tokens.len(), 3);
        assert_eq!(tokens.notes.len(), 1);
    }

    #[test]
    fn definitions_that_grow_without_end_are_refused() {
        let text = (0..40).fold("$A=xxxxxxxx\n".to_owned(), |text, _| text + "$A=$A$A\n");
        assert!(!Tokens::read(Path::new("x"), &text).problems.is_empty());
    }

    #[test]
    fn globs() {
        for (pattern, name, fits) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.config", false),
            ("a?c*", "abc", true),
            ("*a*b*", "xxaxxbxx", true),
            ("", "", true),
            ("?", "", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
        }
    }
}
