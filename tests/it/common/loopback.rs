//! HTTP servers on the loopback address with answers that a test defines: stand-ins for services that cannot run here.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request, as the server received it.
pub struct Received {
    /// The method and the path, such as `GET /a?b=c`.
    pub line: String,
    /// The lines of the head.
    pub head: String,
    pub body: String,
}

impl Received {
    /// Returns whether the request has this header. The name is in lower case.
    pub fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line == header)
    }
}

/// An answer: the status, further lines of the head, and the body. `None` is an answer that never comes.
pub type Answer = Option<(u16, String, String)>;

/// Returns an answer with a body.
pub fn answer(status: u16, body: impl Into<String>) -> Answer {
    Some((status, String::new(), body.into()))
}

/// A server that ends with the test.
pub struct Loopback {
    pub port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Loopback {
    /// Starts a server that answers with the results of `respond`.
    pub fn start(respond: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (shared, respond) = (Arc::clone(&seen), Arc::new(respond));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (shared, respond) = (Arc::clone(&shared), Arc::clone(&respond));
                thread::spawn(move || serve(client, &shared, &*respond));
            }
        });
        Self { port, seen }
    }

    /// Returns the URL of the server.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the heads and the bodies of all requests so far.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(client: TcpStream, seen: &Mutex<Vec<String>>, respond: &dyn Fn(&Received) -> Answer) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).ok()?;
    let line = head.lines().next()?.trim_end_matches(" HTTP/1.1").to_owned();
    seen.lock().unwrap().push(format!("{head}{body}"));
    let Some((status, lines, text)) = respond(&Received { line, head, body }) else {
        // The client closes the connection.
        while reader.read(&mut [0; 64]).ok()? > 0 {}
        return None;
    };
    let length = text.len();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{lines}\r\n");
    (&client).write_all(format!("{head}{text}").as_bytes()).ok()
}
