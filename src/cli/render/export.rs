//! The outcome of `export`.

use super::table::warnings;
use super::{Render, Style};
use crate::archive::human_size;
use crate::cli::results::Results;
use crate::commands::contents::export::Outcome;

impl Render for Outcome {
    fn juju(&self) -> Results {
        Results::default()
    }

    fn text(&self, _: Style) -> String {
        let mut text = String::new();
        if let Some(path) = &self.path {
            text += &format!(
                "{} keys of revision {} are in {} (size {}, mode 0600)\n",
                self.keys,
                self.revision,
                path.display(),
                human_size(self.size_bytes)
            );
        }
        text + &warnings(&self.warnings)
    }
}
