//! What is shipped and written is what the program takes and answers.

use crate::support::{Engine, Router, call, program, tokens};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn the_shipped_example_is_one_the_router_takes_also_with_every_line_in_use() {
    let path = repository("deploy/kvd-router.example.toml");
    let checked = Command::new(program()).arg("check-config").arg(&path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&checked.stdout), "2 workers and 1 nodes: the configuration is sound\n", "{checked:?}");
    let text = std::fs::read_to_string(&path).unwrap();
    let used: Vec<&str> = text.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line)).collect();
    kvd_router::settings::parse(&used.join("\n"), "the example with every line in use").unwrap();
}

/// `key = value`, not a sentence.
fn is_setting(line: &str) -> bool {
    let key = line.split_once(" = ").map_or("", |(key, _)| key);
    !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

#[test]
fn a_configuration_with_a_fault_is_refused_by_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[[workers]]\nname = \"a\"\nmodel = \"m\"\nblock_tokens = 16\nnode = \"n\"\n").unwrap();
    let checked = Command::new(program()).arg("check-config").arg(file.path()).output().unwrap();
    let text = String::from_utf8(checked.stderr).unwrap();
    assert!(!checked.status.success());
    assert_eq!(text, "kvd-router: worker `a` is on node `n`, which no [[nodes]] tells of\n");
}

#[test]
fn a_question_to_nobody_says_how_to_start_one() {
    let asked = Command::new(program()).args(["loads", "--address", "127.0.0.1:1"]).output().unwrap();
    let text = String::from_utf8(asked.stderr).unwrap();
    assert!(text.contains("no router answers at 127.0.0.1:1") && text.contains("kvd-router serve"), "{text}");
}

/// Every `POST /path` followed by a block of JSON in `docs/router.md` is sent, in order, to a router as the page describes it; the
/// block after it must hold nothing that the answer does not.
#[test]
fn the_examples_of_the_documentation_are_answered_as_written() {
    let engine = Engine::start(4);
    let router = Router::start(&engine.toml("vllm-1").replace("\"m\"", "\"llama\"").replace("http://vllm-1", "http://10.0.0.1:8000"));
    router.wait_known("vllm-1");
    engine.store(&tokens(1, 8), "GPU");
    router.wait_matched("llama", &tokens(1, 8), "vllm-1", 8);
    let page = std::fs::read_to_string(repository("docs/router.md")).unwrap();
    let examples = examples(&page);
    assert!(examples.len() >= 6, "{} examples", examples.len());
    for (method, path, asked, answered) in examples {
        let (status, answer) = call(router.http, &method, &path, &asked);
        assert!((200..300).contains(&status), "{method} {path}: {answer}");
        let expected: Value = serde_json::from_str(&answered).unwrap_or_else(|error| panic!("{method} {path}: {error} in {answered}"));
        assert!(contains(&answer, &expected), "{method} {path}: the page says {expected}, the router {answer}");
    }
}

/// Method, path, body and answer of each example: a fenced block that begins with a method, and the one that follows it.
fn examples(page: &str) -> Vec<(String, String, String, String)> {
    let blocks: Vec<&str> = page.split("```").skip(1).step_by(2).collect();
    let asks = |block: &str| {
        block.lines().nth(1).filter(|line| ["GET /", "POST /", "DELETE /"].iter().any(|verb| line.starts_with(verb))).is_some()
    };
    let pairs = blocks.windows(2).filter(|pair| asks(pair[0]));
    let example = |pair: &[&str]| {
        let (first, body) = pair[0].trim_start_matches(|c: char| c.is_alphabetic()).trim().split_once('\n').unwrap_or((pair[0].trim(), ""));
        let (method, path) = first.trim().split_once(' ').unwrap();
        let answer = pair[1].trim_start_matches("json").trim();
        (method.to_owned(), path.to_owned(), body.trim().to_owned(), answer.to_owned())
    };
    pairs.map(example).collect()
}

/// True when `answer` has all of `expected`. The string `…` stands for anything.
fn contains(answer: &Value, expected: &Value) -> bool {
    match (answer, expected) {
        (_, Value::String(any)) if any == "…" => true,
        (Value::Object(answer), Value::Object(expected)) => {
            expected.iter().all(|(key, value)| answer.get(key).is_some_and(|found| contains(found, value)))
        }
        (Value::Array(answer), Value::Array(expected)) => {
            answer.len() == expected.len() && answer.iter().zip(expected).all(|(answer, expected)| contains(answer, expected))
        }
        _ => answer == expected,
    }
}
