//! The extension headers of a tar, which add to the next entry: PAX (`tar --format=posix`, Python) and GNU's long names.
//!
//! Only a name, and values that this program does not use, are accepted. This module must never let an extension change
//! what is read: a size, a sparse file, a link.

use tar::PaxExtensions;

/// The largest extension header in bytes. The largest common value is a name or an access control list.
pub(super) const MAX_SIZE: u64 = 64 << 10;
/// The keys of values that are not used here: times, owners, remarks.
const UNUSED: [&str; 8] = ["atime", "comment", "ctime", "gid", "gname", "mtime", "uid", "uname"];
/// The beginnings of such keys: attributes of the file, as star, bsdtar and GNU tar store them.
const UNUSED_PREFIXES: [&str; 7] = [
    "LIBARCHIVE.creationtime",
    "LIBARCHIVE.xattr.",
    "RHT.security.selinux",
    "SCHILY.acl.",
    "SCHILY.fflags",
    "SCHILY.xattr.",
    "SCHILY.dev",
];

/// The values of the extension headers before an entry.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Extension {
    /// The name of the entry.
    pub name: Option<Vec<u8>>,
    /// The size of the entry in bytes, which must equal that in its header.
    pub size: Option<u64>,
}

impl Extension {
    /// Adds the records of a PAX header.
    ///
    /// # Errors
    /// Returns the end of a sentence about the archive if a record is malformed or would change what is read.
    pub fn add_pax(&mut self, records: &[u8]) -> Result<(), String> {
        for record in PaxExtensions::new(records) {
            let malformed = |_| "contains a malformed PAX header".to_owned();
            let record = record.map_err(malformed)?;
            let key = record.key().map_err(|_| "contains a malformed PAX header".to_owned())?;
            match key {
                "path" => self.name = Some(record.value_bytes().to_owned()),
                "size" => {
                    let size = record.value().ok().and_then(|size| size.parse().ok());
                    self.size = Some(size.ok_or("contains a PAX header with a size that is not a number")?);
                }
                key if UNUSED.contains(&key) => {}
                key if UNUSED_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) => {}
                key => {
                    let key: String = key.chars().take(100).collect();
                    return Err(format!("contains a PAX header with {key:?}, which is not supported"));
                }
            }
        }
        Ok(())
    }

    /// Adds GNU's long name, which ends in a zero byte.
    pub fn add_long_name(&mut self, name: &[u8]) {
        self.name = Some(name.strip_suffix(&[0]).unwrap_or(name).to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::Extension;

    #[test]
    fn accepts_only_values_that_do_not_change_what_is_read() {
        let mut extension = Extension::default();
        extension.add_pax(b"20 path=backup/a.db\n30 mtime=1700000000.123456789\n16 uname=nobody\n").unwrap();
        assert_eq!(extension.name.as_deref(), Some(&b"backup/a.db"[..]));
        extension.add_pax(b"13 size=1024\n").unwrap();
        assert_eq!(extension.size, Some(1024));
        for (records, why) in [
            (&b"21 linkpath=/etc/pwd\n"[..], "\"linkpath\""),
            (b"22 GNU.sparse.major=1\n", "\"GNU.sparse.major\""),
            (b"11 size=x1\n", "not a number"),
            (b"99 path=db\n", "malformed"),
            (b"path=db\n", "malformed"),
        ] {
            let error = Extension::default().add_pax(records).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_long_name_ends_before_its_zero() {
        let mut extension = Extension::default();
        extension.add_long_name(b"folder/a.db\0");
        assert_eq!(extension.name.as_deref(), Some(&b"folder/a.db"[..]));
    }
}
