//! The way to restore a cluster of several members, as commands to type: remove the others, restore, add them again.

use crate::error::{Subcommand, quoted};
use crate::etcd::member::Member;
use std::fmt::Write as _;

/// The steps after a member was added again.
const AFTER_ADD: &str = "on its machine: stop etcd, move member out of its data directory, configure the \
                         initial-cluster that this prints and initial-cluster-state: existing, start etcd; then member \
                         promote ID";

/// The facts that the commands consist of.
#[derive(Debug)]
pub struct Way<'a> {
    /// The members of the cluster.
    pub members: &'a [Member],
    /// The id of the member on this machine, if it is known.
    pub own: Option<u64>,
    /// etcdctl with the options that reach this member, as typed.
    pub etcdctl: &'a str,
    /// The Juju unit that restore runs on, if any.
    pub unit: Option<&'a str>,
    /// The command that repeats the restore.
    pub restore: &'a Subcommand,
    /// The command that starts etcd, as typed.
    pub start: &'a str,
}

impl Way<'_> {
    /// Returns the commands: those of Juju in a sentence, others one a line.
    pub fn describe(&self) -> String {
        let Some(own) = self.own else {
            return format!("start etcd ({}) and run this again, which then prints the commands", self.start);
        };
        let others: Vec<&Member> = self.members.iter().filter(|member| member.id != own).collect();
        match self.unit.and_then(|unit| units(unit, &others)) {
            Some((application, units)) => format!(
                "`juju remove-unit {}`, then {}, then `juju add-unit {application} -n {}`",
                units.join(" "),
                self.restore,
                units.len()
            ),
            None => self.by_hand(&others),
        }
    }

    fn by_hand(&self, others: &[&Member]) -> String {
        let etcdctl = self.etcdctl;
        let mut text = "remove the other members, restore, and add them again".to_owned();
        for member in others {
            let _ = write!(text, "\n  {etcdctl} member remove {:x}  # {}", member.id, name(member));
        }
        let restore = self.restore.to_string();
        // Juju's front translates a command only between backticks.
        let restore = if self.unit.is_some() { &restore } else { restore.trim_matches('`') };
        let _ = write!(text, "\n  {restore}");
        for member in others {
            // A new voter that has not started would leave the cluster without a majority.
            let _ = write!(
                text,
                "\n  {etcdctl} member add {} --learner --peer-urls={}  # {AFTER_ADD}",
                quoted(name(member).as_ref()),
                member.peer_urls.join(",")
            );
        }
        text
    }
}

fn name(member: &Member) -> &str {
    if member.name.is_empty() { "NAME" } else { &member.name }
}

/// Returns the application of `unit`, and the units that have these members, by their numbers: `etcd/1` has the member `etcd1`.
/// `None` if a member is not that of a unit of the same application.
fn units<'u>(unit: &'u str, others: &[&Member]) -> Option<(&'u str, Vec<String>)> {
    let (application, _) = unit.split_once('/')?;
    let number_of = |member: &&Member| member.name.strip_prefix(application)?.parse().ok();
    let mut numbers: Vec<u32> = others.iter().map(number_of).collect::<Option<_>>()?;
    numbers.sort_unstable();
    Some((application, numbers.iter().map(|number| format!("{application}/{number}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str) -> Member {
        Member {
            id,
            name: name.to_owned(),
            peer_urls: vec![format!("http://{id}:2380")],
            client_urls: Vec::new(),
            is_learner: false,
        }
    }

    fn way(members: &[Member], own: Option<u64>, unit: Option<&str>) -> String {
        let restore = Subcommand::new("restore").word("/a");
        let etcdctl = "etcdctl --endpoints=http://127.0.0.1:2379";
        Way { members, own, etcdctl, unit, restore: &restore, start: "systemctl start etcd" }.describe()
    }

    #[test]
    fn units_are_removed_and_added_by_juju() {
        // etcd lists members by their ids.
        let members = [member(1, "etcd0"), member(3, "etcd12"), member(0xab, "etcd1")];
        assert_eq!(
            way(&members, Some(1), Some("etcd/0")),
            "`juju remove-unit etcd/1 etcd/12`, then `sudo etcd-backup restore /a`, then `juju add-unit etcd -n 2`"
        );
        // Not all members are units.
        let members = [member(1, "etcd0"), member(0xab, "m2")];
        assert!(way(&members, Some(1), Some("etcd/0")).contains(" member remove ab  # m2"));
    }

    #[test]
    fn members_outside_of_juju_are_removed_by_their_id() {
        let text = way(&[member(0xcd, "m1"), member(0xab, "m2")], Some(0xcd), None);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines[1], "etcdctl --endpoints=http://127.0.0.1:2379 member remove ab  # m2");
        assert_eq!(lines[2], "sudo etcd-backup restore /a");
        assert!(lines[3].starts_with(
            "etcdctl --endpoints=http://127.0.0.1:2379 member add m2 --learner --peer-urls=http://171:2380  # on "
        ));
        assert!(way(&[member(1, "m1")], None, None).starts_with("start etcd (systemctl start etcd)"));
    }
}
