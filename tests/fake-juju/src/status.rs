//! The table of `juju status`.

/// The number of bytes of a message that the table has room for.
const MAX_SHOWN: usize = 120;

/// Returns the part of a unit's message that `juju status` shows.
pub fn shown(message: &str) -> String {
    const MARK: &str = "...";
    if message.len() <= MAX_SHOWN {
        return message.to_owned();
    }
    String::from_utf8_lossy(&message.as_bytes()[..MAX_SHOWN - MARK.len()]).into_owned() + MARK
}

/// Whether the shown part of a status, written as `KIND MESSAGE`, has the next step if the unit is blocked.
pub fn shown_next_step(status: &str) -> bool {
    let Some(message) = status.strip_prefix("blocked ") else { return true };
    let shown = shown(message);
    ["next: ", "the next hook retries"].iter().any(|step| shown.contains(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut() {
        assert_eq!(shown(&"a".repeat(120)), "a".repeat(120));
        assert_eq!(shown(&"a".repeat(121)), "a".repeat(117) + "...");
        assert!(shown_next_step("blocked no; next: correct it") && shown_next_step("active 1 member"));
        assert!(!shown_next_step(&format!("blocked {}; next: correct it", "a".repeat(120))));
    }
}
