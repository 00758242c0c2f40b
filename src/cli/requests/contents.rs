//! The requests of the commands that look into an archive.

use super::FromParams;
use crate::cli::params::Params;
use crate::commands::contents::{ArchiveName, diff, export, get, history, import, keys, show};
use crate::error::{ActionError, Refusal, Subcommand};
use crate::etcd::key_text;

impl Params {
    /// Returns the archive that the parameter `archive` names.
    fn archive(&self) -> Result<ArchiveName, ActionError> {
        self.archive_in("archive", "no archive is named")
    }

    /// Returns the archive that a parameter names. `missing` is the reason to refuse an empty one.
    fn archive_in(&self, param: &str, missing: &str) -> Result<ArchiveName, ActionError> {
        let list = Subcommand::new("list");
        let no = || Refusal::new(missing, format!("give a path or one that {list} shows"));
        Ok(ArchiveName {
            name: self.given(param)?.ok_or_else(no)?.to_owned(),
            identity_file: self.path("identity-file")?,
            target: self.path("target")?,
        })
    }

    /// Returns the bytes that the parameter `key` stands for.
    fn key(&self) -> Result<Vec<u8>, ActionError> {
        match self.key_bytes("key")? {
            key if key.is_empty() => {
                let keys = Subcommand::new("keys").word("ARCHIVE");
                Err(Refusal::new("no key is named", format!("{keys} lists the keys of an archive")).into())
            }
            key => Ok(key),
        }
    }

    /// Returns the bytes that a key or prefix stands for.
    fn key_bytes(&self, name: &str) -> Result<Vec<u8>, ActionError> {
        let text = self.text(name)?;
        let no = || {
            let next = r"write a backslash as \\, and any other byte as \x and two hexadecimal digits";
            Refusal::new(format!("{name} has an unknown escape after a backslash"), next)
        };
        Ok(key_text::parse(text).ok_or_else(no)?)
    }

    /// Returns the revision that the parameter `at` names.
    fn at(&self) -> Result<Option<i64>, ActionError> {
        let parse = |text: &str| {
            let no = || {
                Refusal::new(
                    format!("at is {text:?} and must be a revision, a whole number above 0"),
                    "leave it out for the last revision",
                )
            };
            text.parse().ok().filter(|revision| *revision > 0).ok_or_else(no)
        };
        Ok(self.given("at")?.map(parse).transpose()?)
    }
}

impl FromParams for show::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        Ok(Self { archive: params.archive()? })
    }
}

impl FromParams for keys::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        Ok(Self { archive: params.archive()?, prefix: params.key_bytes("prefix")?, at: params.at()? })
    }
}

impl FromParams for get::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        let force = params.flag("force")?;
        Ok(Self { archive: params.archive()?, key: params.key()?, at: params.at()?, force })
    }
}

impl FromParams for history::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        let limit = usize::try_from(params.number("limit")?).ok().filter(|limit| *limit > 0);
        Ok(Self { archive: params.archive()?, key: params.key()?, limit })
    }
}

impl FromParams for diff::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        let missing = "two states are compared, and one of them is not named";
        Ok(Self {
            old: params.archive_in("old", missing)?,
            new: params.archive_in("new", missing)?,
            prefix: params.key_bytes("prefix")?,
            site: params.site()?,
            all: params.flag("all")?,
        })
    }
}

impl FromParams for export::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        let no = || Refusal::new("no file is named", "give one that does not exist: --output FILE");
        Ok(Self {
            archive: params.archive()?,
            prefix: params.key_bytes("prefix")?,
            at: params.at()?,
            output: params.path("output")?.ok_or_else(no)?,
        })
    }
}

impl FromParams for import::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        let apply = match (params.flag("plan")?, params.flag("apply")?) {
            (true, false) => false,
            (false, true) => true,
            (true, true) => {
                return Err(Refusal::new("both plan and apply are given", "give one of them").into());
            }
            (false, false) => {
                let next = "add --plan to see what would be put, and then --apply to put it";
                return Err(Refusal::new("an import needs plan or apply", next).into());
            }
        };
        let existing = match (params.flag("only-missing")?, params.flag("overwrite")?) {
            (false, false) => import::Existing::Refuse,
            (true, false) => import::Existing::Keep,
            (false, true) => import::Existing::Overwrite,
            (true, true) => {
                let reason = "both only-missing and overwrite are given";
                return Err(Refusal::new(reason, "give one of them").into());
            }
        };
        Ok(Self {
            archive: params.archive_in("archive", "no file or archive is named")?,
            prefix: params.key_bytes("prefix")?,
            existing,
            apply,
            allow_foreign: params.flag("allow-foreign")?,
            site: params.site()?,
        })
    }
}
