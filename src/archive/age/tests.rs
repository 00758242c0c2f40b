//! Tests with a file of another tool, with our own files, and with files that were cut or changed.

use super::stream::Closed;
use super::*;
use base64ct::{Base64, Encoding};
use std::io::{Read, Write};

/// Made for these tests by `rage` 0.11, which always adds a random stanza.
const IDENTITY: &str = "AGE-SECRET-KEY-128SA5NJA6G5KUMQEEVCRPLC586W72KDYNR6N59ELHGEDVN7LZUXS44MW08";
const RECIPIENT: &str = "age1a7eaj8fh9t460hn9xp6d4299285d94fmlwg4z3kq5pzmjgrvq36qjks4xu";
const FILE: &str = "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSBjUm9qa0pjYTFnNnEvR2xucUU3QmgxeEhCTElJOEtGOGFuRDEvcFRr\
Z1Y4ClFJQjNxMGZZRXJwcjFCZ2xDSUQrTlNoOGVIdDlqZzBSMDRnQ3ZnODZCam8KLT4gKC0kNlB4P0stZ3JlYXNlIEkgaH5GW3UmayAwOFghZy0hMQp6eXhj\
ZUNwQW9BCi0tLSBnYytKUE8vTWhHeGJENlRwNkZvQVAvY3RtSU0zbHVrcytHS0cyWXdBeXZvCoNwwr+IH8LOAmD0DgPLCCSE1dZXMPCoiU5FijR3B6N/w802\
IKYcAlN4t33v";

fn identities() -> Identities {
    Identities::parse(&format!("# public key: {RECIPIENT}\n{IDENTITY}\n"), "it").unwrap()
}

fn encrypted(data: &[u8], recipients: &[Recipient]) -> (Vec<u8>, FileKey) {
    let key = FileKey::fresh().unwrap();
    let mut out = Encrypting::start(Vec::new(), &key, recipients).unwrap();
    out.write_all(data).unwrap();
    (out.finish().unwrap(), key)
}

/// Returns the decrypted data, or `None` if the file cannot be decrypted to its end.
fn opened(bytes: &[u8], identities: &Identities) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    Decrypting::open(bytes, identities).ok()?.read_to_end(&mut data).ok()?;
    Some(data)
}

#[test]
fn decrypts_a_file_of_another_tool() {
    let file = Base64::decode_vec(FILE).unwrap();
    assert_eq!(opened(&file, &identities()).unwrap(), b"etcdetcdetcd");
    assert_eq!(identities().recipients()[0].to_string(), RECIPIENT);
    assert_eq!(RECIPIENT.parse::<Recipient>().unwrap(), identities().recipients()[0]);
}

#[test]
fn each_recipient_and_the_key_decrypt_files_of_any_size() {
    let other = Identities::parse(&identity([7; 32]), "other").unwrap();
    let both = [identities().recipients(), other.recipients()].concat();
    for length in [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000] {
        let data: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        let (file, key) = encrypted(&data, &both);
        assert_eq!(opened(&file, &identities()).as_ref(), Some(&data), "{length}");
        assert_eq!(opened(&file, &other).as_ref(), Some(&data), "{length}");
        let mut by_key = Vec::new();
        Decrypting::with_key(file.as_slice(), &key).unwrap().read_to_end(&mut by_key).unwrap();
        assert_eq!(by_key, data, "{length}");
        let stranger = Identities::parse(&identity([9; 32]), "stranger").unwrap();
        assert!(matches!(Decrypting::open(file.as_slice(), &stranger), Err(Closed::NotForThese)));
        assert!(Decrypting::with_key(file.as_slice(), &FileKey::fresh().unwrap()).is_err());
    }
}

fn identity(key: [u8; 32]) -> String {
    bech32::encode_upper::<bech32::Bech32>(bech32::Hrp::parse_unchecked("age-secret-key-"), &key).unwrap()
}

#[test]
fn refuses_files_that_were_cut_or_changed() {
    let data = vec![b'e'; 70_000];
    let (mut file, _) = encrypted(&data, &identities().recipients());
    let identities = identities();
    let ends = (0..240).chain(file.len() - 20..file.len());
    for at in ends.chain([65_535, 65_736, 65_737, file.len() - 4600]) {
        assert_eq!(opened(&file[..at], &identities), None, "cut to {at}");
        let bit = 1 << (at % 8);
        file[at] ^= bit;
        assert_eq!(opened(&file, &identities), None, "byte {at}");
        file[at] ^= bit;
    }
    let longer = [&file[..], &[0]].concat();
    assert_eq!(opened(&longer, &identities), None);
    assert_eq!(opened(&file.repeat(2), &identities), None);
}

#[test]
fn refuses_reordered_and_missing_chunks() {
    let data: Vec<u8> = (0..65_536 * 3).map(|n| (n / 65_536) as u8).collect();
    let (file, _) = encrypted(&data, &identities().recipients());
    let start = file.len() - 3 * 65_552;
    let (first, second) = (&file[start..start + 65_552], &file[start + 65_552..start + 2 * 65_552]);
    let rest = &file[start + 2 * 65_552..];
    let of = |chunks: &[&[u8]]| [&[&file[..start]], chunks].concat().concat();
    assert!(opened(&of(&[first, second, rest]), &identities()).is_some());
    for chunks in [&[second, first, rest][..], &[first, rest], &[first, second], &[first], &[rest], &[]] {
        assert_eq!(opened(&of(chunks), &identities()), None);
    }
}

#[test]
fn refuses_a_header_without_end() {
    for endless in ["-> X25519 ", "-> X25519 a\n", "\n", "--- "] {
        let file = ["age-encryption.org/v1\n", &endless.repeat(1 << 20)].concat();
        let mut source = CountedReads { source: file.as_bytes(), read: 0 };
        assert!(matches!(Decrypting::open(&mut source, &identities()), Err(Closed::Flawed(_))));
        assert!(source.read <= 3 << 16, "{} bytes were read", source.read);
    }
}

struct CountedReads<'a> {
    source: &'a [u8],
    read: usize,
}

impl Read for CountedReads<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.read += length;
        Ok(length)
    }
}

#[test]
fn names_a_wrong_recipient_but_never_prints_a_secret() {
    for (text, why) in [
        ("age1nonsense", "not an age recipient"),
        (&RECIPIENT.replace("age1a", "age1c"), "not an age recipient"),
        ("age1pq1xyz", "not an age recipient"),
        ("ssh-ed25519 AAAA", "not an age recipient"),
        ("", "not an age recipient"),
        (IDENTITY, "secret key"),
    ] {
        let error = format!("{:#}", text.parse::<Recipient>().unwrap_err());
        assert!(error.contains(why) && !error.contains("44MW08"), "{error}");
    }
    for text in ["", "# nothing\n", RECIPIENT, "age-encryption.org/v1\n", "AGE-SECRET-KEY-1CANARY"] {
        let error = format!("{:#}", Identities::parse(text, "it").unwrap_err());
        assert!(!error.contains("CANARY"), "{error}");
    }
    assert!(!format!("{:?}{:?}", identities(), FileKey::fresh().unwrap()).contains("KEY-1"));
}
