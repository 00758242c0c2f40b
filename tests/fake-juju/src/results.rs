//! The results of an action: how Juju nests what `action-set` was given, and how `juju run` prints it.

use crate::words;
use serde_json::{Map, Value};

/// The column after which the YAML library folds a line.
const BEST_WIDTH: usize = 80;

/// Nests `KEY=VALUE` pairs by the dots in the keys. A later pair replaces an earlier one that is in its way.
pub fn nest<'a>(pairs: impl IntoIterator<Item = &'a str>) -> Map<String, Value> {
    let mut all = Map::new();
    for pair in pairs {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        set(&mut all, key, Value::from(value));
    }
    all
}

/// Sets a dotted key.
pub fn set(map: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            map.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let place = map.entry(first).or_insert(Value::Null);
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            if let Value::Object(inner) = place {
                set(inner, rest, value);
            }
        }
    }
}

/// Prints results as `juju run` does: keys in alphabetical order, long lines folded at a space. A text with a newline is a
/// block, whose lines are not folded.
pub fn print(results: &Map<String, Value>) -> String {
    let mut text = String::new();
    print_map(&mut text, 0, results);
    text
}

fn print_map(text: &mut String, indent: usize, map: &Map<String, Value>) {
    let mut names: Vec<&String> = map.keys().collect();
    names.sort();
    for name in names {
        text.push_str(&format!("{:indent$}{name}:", ""));
        match &map[name] {
            Value::Object(inner) => {
                text.push('\n');
                print_map(text, indent + 2, inner);
            }
            Value::String(value) if value.contains('\n') => print_block(text, indent + 2, value),
            Value::String(value) => {
                let column = indent + name.len() + 1;
                text.push_str(&fold(&format!(" {}", quoted(value)), column, indent + 2));
                text.push('\n');
            }
            other => text.push_str(&format!(" {other}\n")),
        }
    }
}

fn print_block(text: &mut String, indent: usize, value: &str) {
    let chomping = match value {
        _ if value.ends_with("\n\n") => "+",
        _ if value.ends_with('\n') => "",
        _ => "-",
    };
    text.push_str(&format!(" |{chomping}\n"));
    for line in value.strip_suffix('\n').unwrap_or(value).split('\n') {
        let indent = if line.is_empty() { 0 } else { indent };
        text.push_str(&format!("{:indent$}{line}\n", ""));
    }
}

/// Breaks `line`, which begins in this column, at each single space after the best width.
fn fold(line: &str, mut column: usize, indent: usize) -> String {
    let mut folded = String::new();
    let letters: Vec<char> = line.chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        let is_inner =
            at > 0 && letters.get(at + 1).is_some_and(|next| *next != ' ') && letters[at - 1] != ' ';
        if *letter == ' ' && is_inner && column > BEST_WIDTH {
            folded.push_str(&format!("\n{:indent$}", ""));
            column = indent;
        } else {
            folded.push(*letter);
            column += 1;
        }
    }
    folded
}

/// Quotes a text that would be read as something else, or that cannot be written without quotes.
fn quoted(value: &str) -> String {
    let is_plain = !value.is_empty()
        && !value.starts_with([
            '-', '?', ':', ',', '[', ']', '{', '}', '#', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`',
            ' ',
        ])
        && !value.contains(": ")
        && !value.contains(" #")
        && !value.ends_with([':', ' ']);
    if !words::resolve(value).is_string() {
        return format!("{value:?}");
    }
    if is_plain { value.to_owned() } else { format!("'{}'", value.replace('\'', "''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn results_are_nested() {
        let all = nest(["a=1", "a.b=2", "a.c=x = y", "z.y=1", "z=2"]);
        assert_eq!(Value::Object(all), json!({"a": {"b": "2", "c": "x = y"}, "z": "2"}));
    }

    #[test]
    fn a_long_line_is_folded_and_a_block_is_not() {
        let line = format!("juju scp etcd/0:/{} .", "a".repeat(80));
        let folded = print(&nest([&*format!("copy.cmd={line}"), "a=1"]));
        assert_eq!(folded, format!("a: \"1\"\ncopy:\n  cmd: juju scp etcd/0:/{}\n    .\n", "a".repeat(80)));
        let block = print(&nest([&*format!("copy.cmd={line}\n")]));
        assert_eq!(block, format!("copy:\n  cmd: |\n    {line}\n"));
    }
}
