//! Command lines of ipvsadm in a text: the output of `ipvsadm -S`, whose lines begin with an option, and shell scripts,
//! of which the lines that call ipvsadm are read. Nothing is run, and no variable is known.

use super::Names;
use super::command::{Command, CommandError};

/// What one line, or one of several commands in a line, turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Statement {
    /// A command of ipvsadm.
    Command(Command),
    /// Something else that a shell would do.
    Other(String),
    /// A command of ipvsadm that is wrong.
    Wrong(CommandError),
    /// Quotes that nobody closes.
    Unclosed,
}

/// All statements in `text`, each with the number of its line, from 1 on.
pub fn statements(text: &str, names: &Names) -> Vec<(usize, Statement)> {
    let mut found = Vec::new();
    for (line_number, line) in whole_lines(text) {
        match split(&line) {
            None => found.push((line_number, Statement::Unclosed)),
            Some(commands) => {
                // Of a line that is one command the whole is shown, its redirections too.
                let whole = (commands.len() == 1).then(|| line.trim());
                let statements = commands.iter().filter_map(|words| statement(words, whole, names));
                found.extend(statements.map(|statement| (line_number, statement)));
            }
        }
    }
    found
}

/// Lines with those that follow a backslash at their end, with the number of the first.
fn whole_lines(text: &str) -> Vec<(usize, String)> {
    let mut whole: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let (line, more) = line.strip_suffix('\\').map_or((line, false), |line| (line, true));
        match whole.last_mut().filter(|_| goes_on) {
            Some((_, before)) => {
                before.push(' ');
                before.push_str(line);
            }
            None => whole.push((index + 1, line.to_owned())),
        }
        goes_on = more;
    }
    whole
}

/// The words of each command in a line, as a shell finds them; none where a quote is not closed. Redirections go with
/// their files: they say nothing about IPVS.
fn split(line: &str) -> Option<Vec<Vec<String>>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut letters = line.chars().peekable();
    let end_word = |word: &mut Option<String>, commands: &mut Vec<Vec<String>>| {
        if let (Some(word), Some(last)) = (word.take(), commands.last_mut()) {
            last.push(word);
        }
    };
    while let Some(letter) = letters.next() {
        match letter {
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next()? {
                        end if end == letter => break,
                        '\\' if letter == '"' => word.push(letters.next()?),
                        other => word.push(other),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(letters.next()),
            '#' if word.is_none() => break,
            ';' | '&' | '|' => {
                end_word(&mut word, &mut commands);
                commands.push(Vec::new());
            }
            '>' | '<' => {
                // `2>&1`: the number, the sign and the file.
                word = word.filter(|word| !word.bytes().all(|byte| byte.is_ascii_digit()));
                end_word(&mut word, &mut commands);
                while letters.next_if(|letter| matches!(letter, '>' | '<' | '&' | ' ')).is_some() {}
                while letters.next_if(|letter| !letter.is_whitespace() && !";&|".contains(*letter)).is_some()
                {
                }
            }
            space if space.is_whitespace() => end_word(&mut word, &mut commands),
            other => word.get_or_insert_default().push(other),
        }
    }
    end_word(&mut word, &mut commands);
    Some(commands)
}

/// The words of `text`, which is one command with its arguments; nothing where it is more than that, or a quote is not closed.
pub(crate) fn words_of(text: &str) -> Option<Vec<String>> {
    let mut commands = split(text)?;
    commands.pop().filter(|_| commands.is_empty())
}

fn statement(words: &[String], whole: Option<&str>, names: &Names) -> Option<Statement> {
    // A prompt before it, as in what people copy from terminals, and words that run what follows.
    let before = words.iter().take_while(|word| matches!(word.as_str(), "$" | "sudo" | "exec")).count();
    let rest = words.get(before..).unwrap_or_default();
    let first = rest.first()?;
    let is_ipvsadm = first.rsplit('/').next() == Some("ipvsadm");
    let of_command = match (is_ipvsadm, before == 0 && first.starts_with('-')) {
        (true, _) => rest.get(1..).unwrap_or_default(),
        (false, true) => rest,
        (false, false) => {
            return Some(Statement::Other(whole.map_or_else(|| words.join(" "), str::to_owned)));
        }
    };
    Some(match Command::read(of_command, names) {
        Ok(command) => Statement::Command(command),
        Err(error) => Statement::Wrong(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Vec<String>> {
        split(line).unwrap()
    }

    #[test]
    fn words_are_a_shells() {
        assert_eq!(words("ipvsadm -A  -t '1.2.3.4:80' # web"), [["ipvsadm", "-A", "-t", "1.2.3.4:80"]]);
        assert_eq!(words("a \"b c\"d\\ e"), [["a", "b cd e"]]);
        assert_eq!(words("ipvsadm -C 2>/dev/null"), [["ipvsadm", "-C"]]);
        assert_eq!(
            words("ipvsadm -C >/dev/null 2>&1 || exit 1"),
            [vec!["ipvsadm", "-C"], vec![], vec!["exit", "1"]]
        );
        assert_eq!(split("a 'b"), None);
    }

    #[test]
    fn lines_are_told_apart() {
        let text = "#!/bin/sh\n\nVIP=1.2.3.4\n/sbin/ipvsadm -C && sudo ipvsadm -A \\\n  -f 1\n-S\n$ ipvsadm -S -n\n-Q\n";
        let found = statements(text, &Names::default());
        let lines: Vec<_> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [3, 4, 4, 6, 7, 8]);
        let found: Vec<_> = found.into_iter().map(|(_, statement)| statement).collect();
        assert_eq!(found[0], Statement::Other("VIP=1.2.3.4".into()));
        assert_eq!(found[1], Statement::Command(Command::Clear));
        assert!(matches!(&found[2], Statement::Command(Command::AddService(..))));
        assert_eq!(found[4], Statement::Command(Command::Save { numeric: true }));
        assert!(matches!(&found[5], Statement::Wrong(CommandError::UnknownOption { .. })));
    }
}
