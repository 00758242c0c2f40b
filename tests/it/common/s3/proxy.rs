//! An HTTP proxy for tests. It forwards every `CONNECT` to one local server, regardless of the host name.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A proxy on the loopback address.
pub struct Proxy {
    /// The port.
    pub port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts a proxy that forwards to the server on this port.
    pub fn to(port: u16) -> Self {
        Self::start(move |client| tunnel(client, port))
    }

    /// Starts a proxy that refuses all connections with this status.
    pub fn closed(status: &'static str) -> Self {
        Self::start(move |mut client| write!(client, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"))
    }

    fn start(answer: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (shared, answer) = (Arc::clone(&asked), Arc::new(answer));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (shared, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                thread::spawn(move || {
                    shared.lock().unwrap().push(head(&client)?);
                    answer(client)
                });
            }
        });
        Self { port, asked }
    }

    /// Returns the heads of all requests to the proxy so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Reads the head of a request. A client sends no more data before the proxy answers.
fn head(client: &TcpStream) -> io::Result<String> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    Ok(head)
}

fn tunnel(mut client: TcpStream, port: u16) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", port))?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        io::copy(&mut from, &mut to)?;
        to.shutdown(Shutdown::Write)
    });
    io::copy(&mut &server, &mut client)?;
    client.shutdown(Shutdown::Write)
}
