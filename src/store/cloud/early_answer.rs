//! Answers that a server sends before it has received the whole request (RFC 9112, sections 9.5 and 9.6).
//!
//! A server may refuse a request after it has read the head, and close the connection while the body is still sent. The
//! write fails then, but the answer explains why. This module must never accept a success in such an answer, because the
//! server has not received the body.

use std::io::{Error as IoError, ErrorKind};
use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// The length of the beginning of an answer up to the first digit of its status, such as `HTTP/1.1 4`.
const STATUS_CLASS_END: usize = 10;

/// Makes connections that read an early answer. It is the last of a chain, because it reads HTTP in clear.
#[derive(Debug)]
pub(in crate::store) struct EarlyAnswers;

impl<In: Transport> Connector<In> for EarlyAnswers {
    type Out = AnswerReader<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|transport| AnswerReader { transport, write_error: None, is_closed: false }))
    }
}

/// A connection. After the server has closed it, the rest of the request is dropped, and the answer is read.
#[derive(Debug)]
pub(in crate::store) struct AnswerReader<T> {
    transport: T,
    /// The error of the first write that failed, until the beginning of the answer was read.
    write_error: Option<IoError>,
    /// Whether the server has closed the connection.
    is_closed: bool,
}

impl<T: Transport> AnswerReader<T> {
    /// Reads the beginning of an answer. Returns whether it is one that is not a success.
    fn read_refusal(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        while self.transport.buffers().input().len() < STATUS_CLASS_END {
            if !self.transport.await_input(timeout)? {
                return Ok(false);
            }
        }
        Ok(is_refusal(self.transport.buffers().input()))
    }
}

impl<T: Transport> Transport for AnswerReader<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.transport.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.is_closed {
            return Ok(());
        }
        match self.transport.transmit_output(amount, timeout) {
            Err(Error::Io(error)) if is_closed_by_server(&error) => {
                (self.write_error, self.is_closed) = (Some(error), true);
                Ok(())
            }
            transmitted => transmitted,
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let Some(write_error) = self.write_error.take() else { return self.transport.await_input(timeout) };
        match self.read_refusal(timeout) {
            Ok(true) => Ok(true),
            Ok(false) | Err(Error::Io(_)) => Err(write_error.into()),
            // For example, the server answered plain HTTP with TLS.
            Err(explained) => Err(explained),
        }
    }

    fn is_open(&mut self) -> bool {
        !self.is_closed && self.transport.is_open()
    }

    fn is_tls(&self) -> bool {
        self.transport.is_tls()
    }
}

/// Returns whether a write failed because the server has closed the connection.
pub(in crate::store) fn is_closed_by_server(error: &IoError) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// Returns whether an answer begins with a status from 300 to 599.
fn is_refusal(answer: &[u8]) -> bool {
    matches!(answer, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', b' ', b'3'..=b'5', ..])
}

#[cfg(test)]
mod tests {
    use super::super::transport::{OnSignal, agent};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::thread;
    use ureq::Agent;
    use ureq::tls::{Certificate, RootCerts, TlsConfig};

    const REFUSAL: &str = "HTTP/1.1 412 Precondition Failed\r\nContent-Length: 6\r\n\r\nreason";
    const SUCCESS: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    /// More than the buffers of a connection hold.
    const BODY: usize = 16 << 20;

    /// Starts a server that reads only the head of a request, answers, and closes the connection. Returns its port.
    fn server(answer: &'static str, tls: Option<Arc<ServerConfig>>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Otherwise the kernel may hold the answer back, and drop it when the connection is closed.
                stream.set_nodelay(true).unwrap();
                let respond = |stream: &mut dyn ReadWrite| {
                    let _ = stream.read(&mut [0; 1024]);
                    let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
                };
                match &tls {
                    Some(config) => {
                        let connection = ServerConnection::new(Arc::clone(config)).unwrap();
                        respond(&mut StreamOwned::new(connection, stream));
                    }
                    None => respond(&mut { stream }),
                }
            }
        });
        port
    }

    trait ReadWrite: Read + Write {}
    impl<T: Read + Write> ReadWrite for T {}

    /// Uploads a large body. Returns the status and the body of the answer, or the error.
    fn put(agent: &Agent, url: &str) -> Result<(u16, String), String> {
        let mut answer = agent.put(url).send(&vec![7; BODY][..]).map_err(|error| error.to_string())?;
        Ok((answer.status().as_u16(), answer.body_mut().read_to_string().unwrap()))
    }

    #[test]
    fn reads_why_a_server_closed_the_connection_during_an_upload() {
        let config = Agent::config_builder().http_status_as_error(false).build();
        let agent = agent(config, OnSignal::Stop);
        let url = format!("http://127.0.0.1:{}/", server(REFUSAL, None));
        for _ in 0..3 {
            assert_eq!(put(&agent, &url), Ok((412, "reason".to_owned())));
        }
    }

    #[test]
    fn does_not_accept_a_success_for_a_partly_sent_body() {
        let config = Agent::config_builder().http_status_as_error(false).build();
        let agent = agent(config, OnSignal::Stop);
        let error = put(&agent, &format!("http://127.0.0.1:{}/", server(SUCCESS, None))).unwrap_err();
        assert!(error.contains("Broken pipe") || error.contains("Connection reset"), "{error}");
    }

    #[test]
    fn reads_an_early_answer_over_tls() {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let provider = Arc::new(rustls_graviola::default_provider());
        let server_config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![made.cert.der().clone()],
                rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
            )
            .unwrap();
        let authority = Certificate::from_der(made.cert.der()).to_owned();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[authority]))
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = Agent::config_builder().http_status_as_error(false).tls_config(tls).build();
        let url = format!("https://127.0.0.1:{}/", server(REFUSAL, Some(Arc::new(server_config))));
        assert_eq!(put(&agent(config, OnSignal::Stop), &url), Ok((412, "reason".to_owned())));
    }
}
