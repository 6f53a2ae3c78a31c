//! `crossdock check`, the real binary, on every file in `tests/rules`: exit code and every byte it prints are
//! compared with the `.txt` beside the `.toml`. `CROSSDOCK_GOLDEN=rewrite cargo test -p control --test check`
//! rewrites them, for review in git.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules")
}

fn files_ending(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs where the rule files are, so that what is printed does not depend on where the repository stands.
fn check(file: &str) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_crossdock"))
        .args(["check", "-c", file])
        .current_dir(directory())
        .env_remove("CLICOLOR_FORCE")
        .output()
        .unwrap();
    Outcome {
        code: output.status.code().expect("not ended by a signal"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn every_rules_file_gets_the_answer_that_stands_beside_it() {
    let bless = std::env::var_os("CROSSDOCK_GOLDEN").is_some_and(|mode| mode == "rewrite");
    let files = files_ending(&directory(), "toml");
    assert_eq!(
        files.iter().map(|file| file.with_extension("txt")).filter(|text| text.exists()).count(),
        if bless { files_ending(&directory(), "txt").len() } else { files.len() },
        "a .toml without its .txt, or a .txt without its .toml"
    );
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let Outcome { code, stdout, stderr } = check(name);
        let answer = format!("exit code {code}\n--- stdout\n{stdout}--- stderr\n{stderr}");
        assert_eq!(name.starts_with("valid-"), code == 0, "{name}\n{answer}");
        let text = file.with_extension("txt");
        if bless {
            fs::write(&text, &answer).unwrap();
        }
        let expected = fs::read_to_string(&text).unwrap();
        assert!(answer == expected, "{name} got\n{answer}\nand not\n{expected}");
    }
}

#[test]
fn every_file_of_configs_is_valid() {
    for file in files_ending(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs"), "toml") {
        let Outcome { code, stderr, .. } = check(&file.display().to_string());
        assert_eq!(code, 0, "{stderr}");
    }
}

#[test]
fn five_errors_are_five_messages_each_with_its_line_and_a_caret() {
    let Outcome { code, stdout, stderr } = check("five-errors.toml");
    assert_eq!((code, stdout.as_str()), (1, ""));
    let count = |is: &dyn Fn(&str) -> bool| stderr.lines().filter(|line| is(line)).count();
    assert_eq!(count(&|line| line.starts_with("error: ")), 5, "{stderr}");
    assert_eq!(count(&|line| line.contains("--> five-errors.toml:")), 5, "{stderr}");
    assert_eq!(
        count(&|line| line.trim_start().trim_start_matches(['|', ' ']).starts_with('^')),
        5,
        "{stderr}"
    );
    assert!(stderr.ends_with("crossdock: five-errors.toml: 5 errors\n"), "{stderr}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let Outcome { code, stderr, .. } = check("nowhere.toml");
    assert_eq!(code, 1);
    assert!(stderr.contains("nowhere.toml") && stderr.contains("No such file"), "{stderr}");
}

#[test]
fn a_command_line_that_is_not_understood_exits_with_2() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_crossdock")).args(["check", "--confg", "x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_rules_that_come_with_crossdock_are_valid() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let files = files_ending(&configs, "toml");
    assert!(!files.is_empty());
    for file in files {
        let Outcome { code, stderr, .. } = check(file.to_str().unwrap());
        assert_eq!(code, 0, "{stderr}");
    }
}

/// `crossdock check | true`, and a service manager whose log has gone: a reader that has left is no reason to abort.
#[test]
fn a_reader_that_has_left_is_no_error() {
    let run = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_crossdock"));
        command.args(arguments).current_dir(directory());
        command.stdout(writer.try_clone().expect("a pipe")).stderr(writer).status().expect("crossdock").code()
    };
    assert_eq!(run(&["check", "-c", "valid-pcap.toml"]), Some(0));
    assert_eq!(run(&["check", "-c", "five-errors.toml"]), Some(1), "an abort has no code, a panic 101");
    assert_eq!(run(&["status", "--socket", "/nonexistent/crossdock.sock"]), Some(3));
}

/// docs/guide/real-nic.md says what to write; it must be right.
#[test]
fn the_guides_rules_are_valid() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide/real-nic.md");
    let guide = fs::read_to_string(guide).unwrap();
    let (_, after) = guide.split_once("    # /etc/crossdock/rules.toml\n").expect("the rules");
    let lines = after.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let rules: String = lines.map(|line| format!("{line}\n")).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rules.toml");
    fs::write(&path, &rules).unwrap();
    let Outcome { code, stderr, .. } = check(path.to_str().unwrap());
    assert!(code == 0 && rules.contains("[[service.backend]]"), "{stderr}\n{rules}");
}
