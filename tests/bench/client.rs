//! One connection of the measuring client. It counts nothing but whole responses with status 200.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use httparse::Status;

use crate::program::Place;

const MAX_RESPONSE_BYTES: usize = 8 * 1024;

/// What one read brought.
#[derive(Clone, Copy, PartialEq)]
pub enum Progress {
    Part,
    Whole,
    /// The server closed the connection after a whole response; so has the client.
    Closed,
}

pub struct Client {
    connection: Option<File>,
    buffer: [u8; MAX_RESPONSE_BYTES],
    held: usize,
    is_whole: bool,
}

impl Client {
    /// Not connected yet.
    pub fn new() -> Client {
        Client { connection: None, buffer: [0; MAX_RESPONSE_BYTES], held: 0, is_whole: false }
    }

    pub fn connect(&mut self, place: &Place) -> io::Result<()> {
        self.connection = Some(place.connect()?);
        Ok(())
    }

    fn connection(&self) -> &File {
        self.connection.as_ref().expect("a connected client")
    }

    /// One write: nothing else is under way, so that the socket has space for all of it.
    pub fn send(&mut self, request: &[u8]) {
        (self.held, self.is_whole) = (0, false);
        let sent = self.connection().write(request).expect("a request is sent");
        assert_eq!(sent, request.len());
    }

    /// Reads once. Any response but one with status 200 and just the length that it declares ends
    /// the run, so that nothing else is ever counted.
    pub fn receive(&mut self) -> Progress {
        assert!(self.held < self.buffer.len(), "the response is too long");
        let mut connection = self.connection.as_ref().expect("a connected client");
        let read = connection.read(&mut self.buffer[self.held..]).expect("a response");
        if read == 0 {
            assert!(
                self.is_whole,
                "the server closed the connection before the response was whole"
            );
            self.connection = None;
            return Progress::Closed;
        }
        self.held += read;
        let response = &self.buffer[..self.held];
        let Some(length) = response_length(response) else { return Progress::Part };
        assert!(self.held <= length, "more than a response");
        self.is_whole = self.held == length;
        if self.is_whole { Progress::Whole } else { Progress::Part }
    }

    /// Sends a request and waits for the response.
    pub fn exchange(&mut self, request: &[u8]) {
        self.send(request);
        while self.receive() != Progress::Whole {}
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection().as_fd()
    }
}

/// The length of head and body, once the head is whole.
fn response_length(response: &[u8]) -> Option<usize> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut fields);
    let Status::Complete(body) = head.parse(response).expect("a response in HTTP") else {
        return None;
    };
    assert_eq!(head.code, Some(200), "{}", String::from_utf8_lossy(response));
    let mut fields = head.headers.iter();
    let length = fields.find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = std::str::from_utf8(length.expect("a response with its length").value);
    Some(body + length.ok()?.parse::<usize>().expect("a length"))
}
