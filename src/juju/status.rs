//! The status of a unit, as `juju status` shows it.

use serde::Deserialize;

/// The number of bytes of a message that the table of `juju status` shows completely (Juju 2.9 to 4.0).
const MAX_SHOWN: usize = 120;
/// The end of a message that it shows in part.
const CUT: &str = "...";

/// The status of a unit, as `status-get` prints it and `status-set` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// `active`, `blocked`, `maintenance` or `waiting`; `status-get` knows more.
    #[serde(rename = "status")]
    pub kind: String,
    /// The message for the operator. `juju status` cuts it; `juju show-status-log` does not.
    #[serde(default)]
    pub message: String,
}

impl Status {
    /// A status of this `kind`.
    pub fn new(kind: &str, message: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), message: message.into() }
    }

    /// The status of a unit that works.
    pub fn active(message: impl Into<String>) -> Self {
        Self::new("active", message)
    }

    /// The status of a unit that is being changed now.
    pub fn maintenance(message: impl Into<String>) -> Self {
        Self::new("maintenance", message)
    }

    /// The status of a unit that needs an operator to do `next`. If `juju status` would cut the message, `next` comes first.
    pub fn blocked(reason: &str, next: &str) -> Self {
        let status = Self::new("blocked", format!("{reason}; next: {next}"));
        if status.is_cut() {
            return Self::new("blocked", format!("next: {next}; reason: {reason}"));
        }
        status
    }

    /// The status of `unit`, which needs an operator to type `commands` on its machine. `juju status` shows where they are, and
    /// has no room for them.
    pub fn blocked_with_commands(reason: &str, unit: &str, commands: &str) -> Self {
        let next = format!("type as root what juju show-status-log {unit} shows");
        if format!("{reason}; next: {next}").len() > MAX_SHOWN - CUT.len() {
            return Self::blocked(reason, &format!("{next}: {commands}"));
        }
        Self::new("blocked", format!("{reason}; next: {next}: {commands}"))
    }

    /// Whether `juju status` shows only the beginning of the message.
    pub fn is_cut(&self) -> bool {
        self.message.len() > MAX_SHOWN
    }

    /// Whether the part that `juju status` shows has the next step.
    #[cfg(test)]
    pub fn shows_next_step(&self) -> bool {
        let begins = self.message.find("next: ");
        begins.is_some_and(|at| at + "next: ".len() <= MAX_SHOWN - CUT.len())
    }

    /// Whether the unit is `active`.
    pub fn is_active(&self) -> bool {
        self.kind == "active"
    }

    /// Whether the unit is `blocked`.
    pub fn is_blocked(&self) -> bool {
        self.kind == "blocked"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_commands_come_after_the_place_where_they_are_shown() {
        let commands = "etcdctl member remove 1; ".repeat(5);
        let short = Status::blocked_with_commands("etcd refuses it", "etcd/0", &commands).message;
        let rest = short
            .strip_prefix("etcd refuses it; next: type as root what juju show-status-log etcd/0 shows: ");
        assert_eq!(rest, Some(&*commands));
        let room = MAX_SHOWN - CUT.len();
        for length in 40..room {
            let message = Status::blocked_with_commands(&"r".repeat(length), "etcd/0", &commands).message;
            assert!(message[..room].contains("show-status-log etcd/0 shows"), "{message}");
        }
        let long = Status::blocked_with_commands(&"reason ".repeat(30), "etcd/0", &commands).message;
        let next = "next: type as root what juju show-status-log etcd/0 shows: ";
        assert!(long.starts_with(&format!("{next}{commands}; reason: reason")));
    }

    #[test]
    fn the_next_step_is_in_the_part_that_juju_shows() {
        let short = Status::blocked("etcd is not running", "systemctl start etcd");
        assert_eq!(short.message, "etcd is not running; next: systemctl start etcd");
        let long = Status::blocked(&"reason ".repeat(30), "systemctl start etcd");
        assert!(long.is_cut() && long.message.starts_with("next: systemctl start etcd; reason: reason "));
        let limit = Status::blocked(&"r".repeat(MAX_SHOWN - "; next: n".len()), "n");
        assert!(!limit.is_cut() && limit.message.starts_with('r'));
    }
}
