//! Queries to systemd, and the format of its environment files.

/// The systemd of the machine that is looked at.
#[derive(Clone, Copy)]
pub(super) struct Systemd<'a> {
    /// Returns the main process of a unit.
    pub main_pid: &'a dyn Fn(&str) -> Option<i32>,
    /// Runs systemctl with these words and returns its output; `None` if that fails.
    pub systemctl: &'a dyn Fn(&[&str]) -> Option<String>,
}

impl Systemd<'_> {
    /// A machine without systemd.
    #[cfg(test)]
    pub fn missing() -> Self {
        Self { main_pid: &|_| None, systemctl: &|_| None }
    }
}

/// Returns the variables in an environment file (systemd.exec(5), `EnvironmentFile=`): `NAME=value`, with a value
/// that may be quoted. Comments begin with `#` or `;`. The last value of a name wins.
pub(super) fn environment_file(text: &str) -> Vec<(String, String)> {
    let text = text.replace("\\\n", "");
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), unquote(value.trim()))).collect()
}

/// Returns a value without the quotes around it.
pub(super) fn unquote(value: &str) -> String {
    let within = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    match (within('"'), within('\'')) {
        (Some(inner), _) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        (_, Some(inner)) => inner.to_owned(),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_environment_file_as_systemd_does() {
        let text = "# A=1\n; B=1\n\nA=x y \n B=\"a \\\"b\\\" c\"\nC='$d'\nD=a\\\nb\nE=\nnonsense\nA=2\n";
        let expected = [("A", "x y"), ("B", "a \"b\" c"), ("C", "$d"), ("D", "ab"), ("E", ""), ("A", "2")];
        let expected: Vec<_> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(environment_file(text), expected);
    }
}
