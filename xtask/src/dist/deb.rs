//! A Debian package of a tree of files, as deb(5) describes it.
//!
//! It has no maintainer scripts: installing creates nothing but the files, and removing leaves archives and settings.

use anyhow::{Context, Result};

use super::tree::{NAME, Tree, gzip};

/// The start of an `ar` archive.
const AR_MAGIC: &[u8] = b"!<arch>\n";
/// Tags of lintian that are meant to be so.
const OVERRIDES: &str = "\
# One static program runs on every release, and is the same that the charm contains.
etcd-backup: statically-linked-binary [usr/bin/etcd-backup]
etcd-backup: shared-library-lacks-prerequisites [usr/bin/etcd-backup]
# Inside the charm, the program looks whether an installation by dpkg was interrupted.
etcd-backup: uses-dpkg-database-directly [usr/bin/etcd-backup]
# The Rust translation of libyaml, which no Debian package provides.
etcd-backup: embedded-library libyaml [usr/bin/etcd-backup]
";

/// The variable parts of a package's control file.
pub struct Description<'a> {
    /// The version of the program.
    pub version: &'a str,
    /// The processor, in Debian's name for it.
    pub architecture: &'a str,
    /// The name and address of the person who makes the package, as in `Name <address>`.
    pub maintainer: &'a str,
}

/// Returns the package of `tree`.
///
/// # Errors
/// Fails if a file does not fit into the format.
pub fn package(tree: &Tree, description: &Description) -> Result<Vec<u8>> {
    let mut tree = tree.clone();
    tree.file(&format!("usr/share/lintian/overrides/{NAME}"), OVERRIDES.as_bytes().to_vec());
    let mut control = tree.sibling();
    control.file("control", control_file(&tree, description).into_bytes());
    control.file("md5sums", md5sums(&tree).into_bytes());
    let mut package = AR_MAGIC.to_vec();
    member(&mut package, "debian-binary", b"2.0\n")?;
    member(&mut package, "control.tar.gz", &gzip(&control.tar(".")?)?)?;
    member(&mut package, "data.tar.gz", &gzip(&tree.tar(".")?)?)?;
    Ok(package)
}

fn control_file(tree: &Tree, description: &Description) -> String {
    let Description { version, architecture, maintainer } = description;
    let installed: usize = tree.files().map(|(_, bytes)| bytes.len().div_ceil(1024)).sum();
    format!(
        "Package: {NAME}\n\
         Version: {version}\n\
         Architecture: {architecture}\n\
         Maintainer: {maintainer}\n\
         Installed-Size: {installed}\n\
         Recommends: etcd-client\n\
         Suggests: etcd-server\n\
         Section: admin\n\
         Priority: optional\n\
         Description: backup and restore of etcd\n \
         Takes verified snapshots of an etcd member, uploads them to S3 buckets or\n \
         directories, and restores them. A restore is proved before etcd is stopped,\n \
         and the old data comes up again if anything fails.\n"
    )
}

fn md5sums(tree: &Tree) -> String {
    use md5::{Digest, Md5};
    let hex =
        |bytes: &[u8]| -> String { Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect() };
    tree.files().map(|(path, bytes)| format!("{}  {path}\n", hex(bytes))).collect()
}

/// Appends a file to an `ar` archive. Each begins at an even offset.
fn member(archive: &mut Vec<u8>, name: &str, bytes: &[u8]) -> Result<()> {
    let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, "100644", bytes.len());
    (header.len() == 60).then_some(()).with_context(|| format!("{name} does not fit into an ar archive"))?;
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(bytes);
    if bytes.len() % 2 == 1 {
        archive.push(b'\n');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTION: Description =
        Description { version: "1.2.3", architecture: "arm64", maintainer: "A B <a@b.example>" };

    #[test]
    fn a_package_has_its_three_members_at_even_offsets() {
        let mut tree = Tree::default();
        tree.program("usr/bin/etcd-backup", b"odd".to_vec());
        let package = package(&tree, &DESCRIPTION).unwrap();
        let mut rest = package.strip_prefix(AR_MAGIC).unwrap();
        let mut names = Vec::new();
        while !rest.is_empty() {
            let header = std::str::from_utf8(&rest[..60]).unwrap();
            let size: usize = header[48..58].trim().parse().unwrap();
            names.push(header[..16].trim().to_owned());
            rest = &rest[60 + size + size % 2..];
        }
        assert_eq!(names, ["debian-binary", "control.tar.gz", "data.tar.gz"]);
    }

    #[test]
    fn the_control_file_says_how_large_it_is() {
        let mut tree = Tree::default();
        tree.file("a", vec![0; 1025]);
        let text = control_file(&tree, &DESCRIPTION);
        assert!(text.contains("\nInstalled-Size: 2\n") && text.contains("\nArchitecture: arm64\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }
}
