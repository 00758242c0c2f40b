//! Uploads a file in Google's protocol: a resumable upload, which becomes an object only when all bytes have arrived.
//!
//! Its parts are sent one after the other, because Google has no upload of parallel parts that respects a condition.
//! The server checks that the name is free when the upload starts, and again before it creates the object. It forgets
//! an upload that was not finished after a week.

use super::service::UPLOAD_TYPE;
use crate::archive::human_size;
use crate::progress::{Progress, Sink};
use crate::store::ContentChanged;
use crate::store::cloud::client::{Client, Response};
use crate::store::cloud::object::PART_SIZE;
use crate::store::cloud::protocol::Upload;
use crate::store::cloud::service::Request;
use crate::system::digest::hex;
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::os::unix::fs::FileExt;
use ureq::http::StatusCode;

/// An upload to a bucket.
pub(super) struct GoogleUpload<'a> {
    pub upload: &'a Upload<'a>,
    pub client: &'a Client,
}

impl GoogleUpload<'_> {
    /// Sends the file.
    pub fn send(&self, progress: Sink<'_>) -> Result<()> {
        let id = self.start()?;
        let sent = self.send_all(&id, progress);
        if sent.is_err() {
            // If that fails, the server forgets the upload after a week.
            let request = Request { method: "DELETE", query: self.query(&id), ..Request::default() };
            let _ = self.client.send_despite_interrupt(&request);
        }
        sent
    }

    /// Starts the upload, if the name is free. Returns its id.
    fn start(&self) -> Result<String> {
        let body = json!({"name": self.upload.key, "metadata": {"sha256": self.upload.sha256}}).to_string();
        let response = self.client.send(&Request {
            method: "POST",
            query: vec![
                (UPLOAD_TYPE, "resumable".to_owned()),
                ("name", self.upload.key.clone()),
                ("ifGenerationMatch", "0".to_owned()),
            ],
            headers: vec![
                ("content-type", "application/json; charset=UTF-8".to_owned()),
                ("x-upload-content-type", "application/octet-stream".to_owned()),
                ("x-upload-content-length", self.upload.size.to_string()),
            ],
            body: body.as_bytes(),
            ..Request::default()
        })?;
        upload_id(response.header("location")).context("the server's answer has no id of the upload")
    }

    /// Returns the query of a request that belongs to the upload `id`.
    fn query(&self, id: &str) -> Vec<(&'static str, String)> {
        vec![
            (UPLOAD_TYPE, "resumable".to_owned()),
            ("name", self.upload.key.clone()),
            ("upload_id", id.to_owned()),
        ]
    }

    /// Sends all bytes. Those that complete the object are sent only if the file has not changed.
    fn send_all(&self, id: &str, progress: Sink<'_>) -> Result<()> {
        let (size, mut hash, mut offset) = (self.upload.size, Sha256::new(), 0);
        let progress = RefCell::new(progress);
        loop {
            let mut part = vec![0; usize::try_from(PART_SIZE.min(size - offset))?];
            self.upload.file.read_exact_at(&mut part, offset).context("reading the archive")?;
            hash.update(&part);
            let end = offset + part.len() as u64;
            if end == size {
                ensure!(hex(&hash.finalize()) == self.upload.sha256, ContentChanged);
                return self.send_part(id, offset, &part, &progress).with_context(|| self.describe(offset));
            }
            self.send_part(id, offset, &part, &progress).with_context(|| self.describe(offset))?;
            offset = end;
        }
    }

    fn describe(&self, offset: u64) -> String {
        format!("after {} of {}", human_size(offset), human_size(self.upload.size))
    }

    /// Sends the bytes at `offset`, again from the byte on that the server has not stored.
    fn send_part(&self, id: &str, offset: u64, part: &[u8], progress: &RefCell<Sink<'_>>) -> Result<()> {
        let end = offset + part.len() as u64;
        let mut stored = offset;
        loop {
            let rest = &part[usize::try_from(stored - offset)?..];
            let response = self.send_rest(id, stored, rest, progress)?;
            let is_complete = response.status() != StatusCode::PERMANENT_REDIRECT;
            match next_byte(response.header("range")) {
                _ if is_complete && end == self.upload.size => return Ok(()),
                _ if is_complete => bail!("the server completed the upload before it had all bytes"),
                next if next == end && end < self.upload.size => return Ok(()),
                next if next > stored && next < end => stored = next,
                next => bail!("the server has stored {next} bytes, and was sent {stored} to {end}"),
            }
        }
    }

    fn send_rest(
        &self,
        id: &str,
        offset: u64,
        rest: &[u8],
        progress: &RefCell<Sink<'_>>,
    ) -> Result<Response> {
        let size = self.upload.size;
        let range = match rest.len() as u64 {
            0 => format!("bytes */{size}"),
            length => format!("bytes {offset}-{}/{size}", offset + length - 1),
        };
        let report = |sent: u64| {
            if let Ok(mut progress) = progress.try_borrow_mut() {
                progress(Progress::Bytes { done: offset + sent, expected: Some(size) });
            }
            Ok(())
        };
        let response = self.client.send(&Request {
            method: "PUT",
            query: self.query(id),
            headers: vec![("content-range", range)],
            body: rest,
            on_sent: Some(&report),
            is_joining: offset + rest.len() as u64 == size,
            ..Request::default()
        })?;
        let _ = report(rest.len() as u64);
        Ok(response)
    }
}

/// Returns the id in the URL of an upload. Requests are never sent to the URL itself: it may name another server.
fn upload_id(location: &str) -> Option<String> {
    let (_, query) = location.split_once('?')?;
    let id = query.split('&').find_map(|pair| pair.strip_prefix("upload_id="))?;
    let id = percent_encoding::percent_decode_str(id).decode_utf8().ok()?;
    (!id.is_empty()).then(|| id.into_owned())
}

/// Returns the first byte that the server has not stored, from the header `Range: bytes=0-99`.
fn next_byte(range: &str) -> u64 {
    let last = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    last.and_then(|(_, last)| last.parse::<u64>().ok()).map_or(0, |last| last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::super::credentials::TokenSource;
    use super::super::service::GoogleService;
    use super::*;
    use crate::store::cloud::http::Http;
    use crate::store::cloud::server::Server;
    use crate::system::clock::Clock;
    use jiff::Timestamp;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::Duration;

    #[test]
    fn the_id_of_an_upload_is_in_its_url() {
        let url = "https://storage.googleapis.com/upload/storage/v1/b/b/o?uploadType=resumable&name=a%2Fb&upload_id=AE%2F1-_x";
        assert_eq!(upload_id(url).as_deref(), Some("AE/1-_x"));
        for url in ["", "https://a/?upload_id=", "https://a/?name=x"] {
            assert_eq!(upload_id(url), None, "{url}");
        }
    }

    #[test]
    fn the_server_reports_what_it_has_stored() {
        for (range, next) in [("bytes=0-99", 100), ("", 0), ("0-99", 0), ("bytes=0-x", 0)] {
            assert_eq!(next_byte(range), next, "{range}");
        }
    }

    /// Starts a server that gives these answers in turn. Returns its port, and the heads of the requests.
    fn server(answers: &'static [&'static str]) -> (u16, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        thread::spawn(move || {
            for (stream, answer) in listener.incoming().flatten().zip(answers) {
                let (mut reader, mut head) = (BufReader::new(&stream), String::new());
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                reader.read_exact(&mut body).unwrap();
                seen.lock().unwrap().push(head);
                (&stream)
                    .write_all(format!("HTTP/1.1 {answer}\r\nConnection: close\r\n\r\n").as_bytes())
                    .unwrap();
            }
        });
        (port, heads)
    }

    /// Uploads ten bytes to a server that gives these answers. Returns the ranges that were sent, and the result.
    fn send(answers: &'static [&'static str]) -> (Vec<String>, Result<()>) {
        let (port, heads) = server(answers);
        let home = tempfile::tempdir().unwrap();
        let key = home.path().join("key.json");
        let pem = include_str!("../../../tests/data/rfc7515-a2-key.pem");
        let account = json!({"type": "service_account", "client_email": "a@b", "private_key": pem});
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&key).unwrap();
        file.write_all(account.to_string().as_bytes()).unwrap();
        let server = Server::parse(&format!("http://127.0.0.1:{port}"), false).unwrap();
        let http = Http::new(None, None, false, Duration::from_secs(5)).unwrap();
        let service = GoogleService::new(server, "backups", TokenSource::Key(key));
        let client = Client::new(Box::new(service), http, Clock::at(Timestamp::UNIX_EPOCH));
        let mut content = tempfile::tempfile().unwrap();
        content.write_all(b"0123456789").unwrap();
        let sha256 = hex(&Sha256::digest(b"0123456789"));
        let upload = Upload::new(("gs://backups/", "", "a.tar.gz"), &content, &sha256).unwrap();
        let sent = GoogleUpload { upload: &upload, client: &client }.send(&mut |_| ());
        let heads = heads.lock().unwrap();
        let ranges = heads.iter().filter_map(|head| {
            Some(head.lines().find_map(|line| line.strip_prefix("content-range: "))?.to_owned())
        });
        (ranges.collect(), sent)
    }

    const STARTED: &str = "200 OK\r\nLocation: http://elsewhere/?upload_id=U\r\nContent-Length: 0";
    const DONE: &str = "200 OK\r\nContent-Length: 0";

    #[test]
    fn what_the_server_has_not_stored_is_sent_again() {
        let (ranges, sent) = send(&[
            STARTED,
            "308 Resume Incomplete\r\nRange: bytes=0-3\r\nContent-Length: 0",
            "308 Resume Incomplete\r\nRange: bytes=0-8\r\nContent-Length: 0",
            DONE,
        ]);
        sent.unwrap();
        assert_eq!(ranges, ["bytes 0-9/10", "bytes 4-9/10", "bytes 9-9/10"]);
    }

    #[test]
    fn a_server_that_stores_nothing_is_given_up() {
        for range in ["", "Range: bytes=0-9\r\n", "Range: bytes=0-99\r\n"] {
            let answer = format!("308 Resume Incomplete\r\n{range}Content-Length: 0").leak();
            let (ranges, sent) = send(vec![STARTED, answer, DONE].leak());
            let error = format!("{:#}", sent.unwrap_err());
            assert!(error.contains("the server has stored"), "{range}: {error}");
            assert_eq!(ranges, ["bytes 0-9/10"], "{range}");
        }
        let (_, sent) = send(&["200 OK\r\nContent-Length: 0"]);
        assert!(format!("{:#}", sent.unwrap_err()).contains("no id of the upload"));
    }
}
