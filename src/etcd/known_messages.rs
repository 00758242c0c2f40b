//! The messages of etcd programs that may be reported, because they cannot quote a key or a value.
//!
//! etcdutl prints the key and the value of a record that it cannot decode (3.6.16, `etcdutl/snapshot/v3_snapshot.go`:
//! "cannot unmarshal value, key: %q value: %q"), and a server logs keys. So the output of these programs is compared
//! with the sentences below. Must never return a word that is not in this file, other than a number or an option in one
//! of its sentences.

use serde::Deserialize;

/// Whole sentences: `{n}` is a number, `{flag}` an option.
const SENTENCES: &[&str] = &[
    // etcdutl and etcdctl snapshot status, restore.
    "snapshot file integrity check failed. {n} errors found.",
    "snapshot missing hash but --skip-hash-check=false",
    "sha256 checksum not found [bytes: {n}]",
    "unknown flag: {flag}",
    "--mark-compacted required if --revision-bump > 0",
    // The Go runtime. Its messages contain no data.
    "runtime error: index out of range [{n}] with length {n}",
    "runtime error: invalid memory address or nil pointer dereference",
    // bbolt.
    "assertion failed: Page expected to be: {n}, but self identifies as {n}",
    "page {n} already freed",
    "invalid page type: {n}: {n}",
];

/// Parts of sentences that are useful alone, the most informative first.
const PHRASES: &[&str] = &[
    // errno(3), in Go's words.
    "no space left on device",
    "disk quota exceeded",
    "permission denied",
    "operation not permitted",
    "no such file or directory",
    "input/output error",
    "read-only file system",
    "too many open files",
    "cannot allocate memory",
    "file exists",
    "file too large",
    "not a directory",
    "bad file descriptor",
    "address already in use",
    "exec format error",
    "out of memory",
    "unexpected fault address",
    "segmentation violation",
    "slice bounds out of range",
    "index out of range",
    "nil pointer dereference",
    "makeslice: len out of range",
    "stack overflow",
    "all goroutines are asleep",
    // bbolt and the snapshot tools.
    "not empty or could not be read",
    "integrity check failed",
    "invalid database",
    "version mismatch",
    "checksum error",
    "invalid freelist page",
    "page already freed",
    "file size too small",
    "expected sha256",
    "missing hash",
    "unsupported storage version",
    "couldn't find local name",
    "missing from --initial-advertise-peer-urls",
    // The etcd server at its start.
    "unmarshal should never fail",
    "failed to unmarshal mvccpb.KeyValue",
    "failed to unmarshal",
    "failed to recover v3 backend from snapshot",
    "failed to recover from snapshot",
    "detected disallowed v2store content",
    "detected disallowed custom content in v2store",
    "invalid downgrade",
    "cluster cannot be downgraded",
    "is not supported",
    "failed to open WAL",
    "failed to read WAL",
    "failed to repair WAL",
    "wal: file not found",
    "wal: crc mismatch",
    "walpb: crc mismatch",
    "wal: max entry size limit exceeded",
    "wal: slice bounds out of range",
    "wal: snapshot mismatch",
    "wal: snapshot not found",
    "snap: crc mismatch",
    "snap: no available snapshot",
    "snap: snapshot file doesn't exist",
    "database file",
    "discovery failed",
    "member count is unequal",
    "failed to verify WAL",
    // Records that cannot be decoded. The rest of the sentence is the record.
    "cannot unmarshal value",
    "cannot parse revision key",
    "error during bucket key iteration",
    "unexpected EOF",
];

/// Returns the part of a line of output that is a message of this file, if any.
pub(super) fn recognize(line: &str) -> Option<String> {
    if let Some(logged) = LogLine::read(line) {
        return logged.recognize();
    }
    let line = line.trim();
    let line = ["Error: ", "panic: ", "fatal error: "]
        .iter()
        .find_map(|start| line.strip_prefix(start))
        .unwrap_or(line);
    if SENTENCES.iter().any(|sentence| is_instance(line, sentence)) {
        return Some(line.to_owned());
    }
    PHRASES.iter().find(|phrase| line.contains(**phrase)).map(|phrase| (*phrase).to_owned())
}

/// A line of the etcd log.
#[derive(Deserialize)]
struct LogLine {
    level: String,
    msg: String,
    #[serde(default)]
    error: String,
}

impl LogLine {
    /// Parses a line in JSON (etcd, etcdctl) or in columns (etcdutl): time, level, source, message, further fields in
    /// JSON.
    fn read(line: &str) -> Option<Self> {
        if line.starts_with('{') {
            return serde_json::from_str(line).ok();
        }
        let columns: Vec<&str> = line.split('\t').collect();
        let &[_, level, _, msg, ref rest @ ..] = columns.as_slice() else { return None };
        #[derive(Deserialize)]
        struct FurtherFields {
            #[serde(default)]
            error: String,
        }
        let rest = rest.first().and_then(|rest| serde_json::from_str::<FurtherFields>(rest).ok());
        Some(Self {
            level: level.to_owned(),
            msg: msg.to_owned(),
            error: rest.map(|rest| rest.error).unwrap_or_default(),
        })
    }

    /// Recognizes only lines about errors, because a line of another level did not end the program.
    fn recognize(&self) -> Option<String> {
        let is_error =
            ["error", "dpanic", "panic", "fatal"].contains(&self.level.to_ascii_lowercase().as_str());
        let parts = [&self.msg, &self.error].map(|part| recognize(part).filter(|_| is_error));
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(": "))
    }
}

/// Whether a line is an instance of a sentence with placeholders.
fn is_instance(line: &str, sentence: &str) -> bool {
    let Some((before, after)) = sentence.split_once('{') else { return line == sentence };
    let Some((kind, after)) = after.split_once('}') else { return false };
    let Some(line) = line.strip_prefix(before) else { return false };
    let fits = |c: char| match kind {
        "n" => c.is_ascii_digit(),
        _ => c.is_ascii_lowercase() || c == '-',
    };
    let end = line.find(|c| !fits(c)).unwrap_or(line.len());
    end > 0 && is_instance(&line[end..], after)
}

#[cfg(test)]
mod tests {
    use super::recognize;

    #[test]
    fn returns_messages_that_cannot_quote_data() {
        for (line, expected) in [
            (
                "Error: snapshot file integrity check failed. 3 errors found.",
                Some("snapshot file integrity check failed. 3 errors found."),
            ),
            ("Error: unknown flag: --bump-revision", Some("unknown flag: --bump-revision")),
            (
                "Error: write new.part/member/snap/db: no space left on device",
                Some("no space left on device"),
            ),
            (
                "panic: runtime error: index out of range [5] with length 3",
                Some("runtime error: index out of range [5] with length 3"),
            ),
            (
                r#"Error: data-dir "out" not empty or could not be read"#,
                Some("not empty or could not be read"),
            ),
            ("Error: expected sha256 [1 2], got [3 4]", Some("expected sha256")),
            (
                r#"{"level":"fatal","msg":"discovery failed","error":"write /d: no space left on device"}"#,
                Some("discovery failed: no space left on device"),
            ),
            (
                "2026-11-28T20:25:30Z\tfatal\tsnapshot/v3.go:1\tfailed to open WAL\t{\"error\": \"wal: crc mismatch\"}",
                Some("failed to open WAL: wal: crc mismatch"),
            ),
        ] {
            assert_eq!(recognize(line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn withholds_messages_that_may_quote_data() {
        for (line, expected) in [
            (
                r#"Error: cannot unmarshal value, key: "canary" value: "canary" err: x"#,
                Some("cannot unmarshal value"),
            ),
            ("Error: write canary and more: no space left on device", Some("no space left on device")),
            ("unknown flag: --canary=Secret", None),
            ("snapshot file integrity check failed. canary errors found.", Some("integrity check failed")),
            ("open /d: canary", None),
            (r#"{"level":"panic","msg":"canary","error":"canary"}"#, None),
            (r#"{"level":"info","msg":"discovery failed"}"#, None),
            (
                r#"{"level":"panic","msg":"canary","error":"unexpected EOF in canary"}"#,
                Some("unexpected EOF"),
            ),
            ("2026\tfatal\tplace\tcanary\t{\"key\": \"canary\"}", None),
            ("goroutine 1 [running]:", None),
            ("canary", None),
            ("", None),
        ] {
            assert_eq!(recognize(line).as_deref(), expected, "{line}");
        }
    }
}
