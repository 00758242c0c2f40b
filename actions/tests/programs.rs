//! The two programs are the actions that they are named after.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test runs programs, and fails by a panic"
)]

use std::process::Command;

#[test]
fn each_program_is_its_action() {
    for (name, program) in
        [("snapshot", env!("CARGO_BIN_EXE_snapshot")), ("restore", env!("CARGO_BIN_EXE_restore"))]
    {
        let out = Command::new(program).arg("--version").output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
        let out = Command::new(program).arg("target").output().unwrap();
        assert!(name == "restore" || out.status.code() == Some(2));
    }
}
