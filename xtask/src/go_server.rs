//! Storage servers for the tests that are written in Go, built from the Go module proxy in cargo's target directory.
//!
//! Never installs anything on this computer, and never uses another version than the pinned one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, interrupt};

/// A server, and how to build it.
pub struct GoServer {
    /// The name of the server and of its program.
    pub name: &'static str,
    /// The package of its program.
    package: &'static str,
    version: &'static str,
    /// The variable that names a program to use instead. The tests read it too.
    pub variable: &'static str,
    /// How long it takes to build.
    effort: &'static str,
}

/// versitygw, which stores objects as files.
pub const VERSITYGW: GoServer = GoServer {
    name: "versitygw",
    package: "github.com/versity/versitygw/cmd/versitygw",
    version: "v1.8.0",
    variable: "VERSITYGW_BIN",
    effort: "some minutes",
};

/// MinIO. The version is the last commit, because its releases have no version that Go accepts.
pub const MINIO: GoServer = GoServer {
    name: "minio",
    package: "github.com/minio/minio",
    version: "v0.0.0-20260212201848-7aac2a2c5b7c",
    variable: "MINIO_BIN",
    effort: "long",
};

/// fake-gcs-server, an emulator of Google Cloud Storage, which keeps objects in memory.
pub const FAKE_GCS_SERVER: GoServer = GoServer {
    name: "fake-gcs-server",
    package: "github.com/fsouza/fake-gcs-server",
    version: "v1.55.1",
    variable: "FAKE_GCS_SERVER_BIN",
    effort: "some minutes",
};

impl GoServer {
    /// Sets the variable by which the tests find the server. Returns `false` if it cannot be built, and prints why.
    pub fn set_environment(&self, cargo: &mut Command, target: &Path) -> Result<bool> {
        let program = self.find(target)?;
        Ok(program.map(|program| cargo.env(self.variable, program)).is_some())
    }

    /// Returns the program, which is built if it is missing. Returns `None` if it cannot be built, and prints why.
    pub fn find(&self, target: &Path) -> Result<Option<PathBuf>> {
        let reason = match self.ensure(target) {
            Ok(Some(program)) => return Ok(Some(program)),
            Ok(None) => "Go is not installed".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        interrupt::check()?;
        eprintln!(
            "SKIPPED: the tests on {}, because it cannot be built ({reason}). To run them, set {} to its program.",
            self.name, self.variable
        );
        Ok(None)
    }

    /// Returns the program. It is built if it is missing. Returns `None` if it is missing and there is no Go.
    pub fn ensure(&self, target: &Path) -> Result<Option<PathBuf>> {
        if let Some(named) = std::env::var_os(self.variable).filter(|named| !named.is_empty()) {
            let program = std::path::absolute(named)?;
            if !program.is_file() {
                bail!("{} is {}, which is not a file", self.variable, program.display());
            }
            return Ok(Some(program));
        }
        if let Some(program) = self.built(target) {
            return Ok(Some(program));
        }
        let home = self.home(target);
        if command::output(command::new("go").arg("version")).is_err() {
            return Ok(None);
        }
        eprintln!(
            "building the server {} {} from the Go module proxy in {}, which takes {}",
            self.name,
            self.version,
            command::short_path(&home),
            self.effort
        );
        fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
        let mut go = Command::new("nice");
        go.arg("go").env("GOBIN", &home).env("CGO_ENABLED", "0").env_remove("GOFLAGS");
        go.args(["install", "-trimpath", "-ldflags=-s -w", &format!("{}@{}", self.package, self.version)]);
        command::run_checked(&mut go).with_context(|| format!("building {}", self.name))?;
        Ok(self.built(target))
    }

    /// Returns the program if the variable names it or if it has been built.
    pub fn fetched(&self, target: &Path) -> Option<PathBuf> {
        let named = std::env::var_os(self.variable).map(PathBuf::from);
        named.filter(|program| program.is_file()).or_else(|| self.built(target))
    }

    fn built(&self, target: &Path) -> Option<PathBuf> {
        Some(self.home(target).join(self.name)).filter(|program| program.is_file())
    }

    fn home(&self, target: &Path) -> PathBuf {
        target.join(format!("s3/{}-{}", self.name, self.version))
    }
}
