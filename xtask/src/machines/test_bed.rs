//! What all scenarios share: the tree that machines boot from, and the built programs.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::machine::Machine;
use super::scenario;
use crate::test::SLOW_TESTS;
use crate::{command, workspace};

/// What every scenario needs.
pub struct TestBed {
    /// The tree that machines boot from.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// The directory of the built programs.
    pub programs: PathBuf,
}

impl TestBed {
    /// Builds the programs as the tests do: in `cargo xtask test`, they are built already. `cargo build` would choose fewer
    /// features of the dependencies, and build most of them again.
    pub fn prepare(root: PathBuf) -> Result<Self> {
        let target = workspace::target_directory()?;
        let tests = ["test", "--workspace", "--test", SLOW_TESTS, "--no-run"];
        command::run_checked(command::cargo().args(tests))?;
        // The hook tools of units that see each other. No test needs this program.
        command::run_checked(command::cargo().args(["build", "--package", "fake-juju"]))?;
        Ok(Self { root, programs: target.join("debug"), target })
    }

    /// Boots a machine with the programs on it, and etcd as the Debian package starts it.
    pub fn boot_with_programs(&self) -> Result<Machine> {
        let machine = Machine::boot(&self.root).context("booting a machine")?;
        scenario::install(&machine, &self.programs)?;
        Ok(machine)
    }
}
