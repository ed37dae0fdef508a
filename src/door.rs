//! The front door: one thread that waits for all clients at once, lets complete, bounded, canonical
//! requests through to the loop, and gives back its answers. It alone touches a client's socket,
//! and never waits for one: what a client does or leaves undone costs nobody else anything. The
//! only file that names `mio` (epoll).

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{SockAddr, Socket};

use crate::client::{Client, End, IDLE_TIME, Lack, MESSAGE_TIME, READ_BYTES, Stage, Then};
use crate::engine::{Answer, Engine, broken};
use crate::head::{self, Head, Limits};
use crate::metrics::{CONNECTIONS, EVICTIONS, REFUSALS, REPEATED};
use crate::reject::Reject;
use crate::{log, time};

/// What a connection may buffer on its own account, and what all may buffer beyond it together:
/// so many slow senders of long bodies cannot make the process grow.
const OWN_BYTES: usize = READ_BYTES;
const SHARED_BYTES: usize = 384 * 1024;
/// No connection gives way before it had this long to be served.
const MIN_WAIT: Duration = Duration::from_millis(20);
/// How long a request waits until the loop has fewer in hand, in milliseconds.
const MAX_WAIT: u64 = 5000;
/// Longer than the loop's longest wait: an engine that takes longer is broken.
const TIMEOUT: u64 = 30_000;
/// Told to end, all have this long to be served: OSS waits no longer for an answer.
pub const DRAIN: Duration = Duration::from_secs(5);
/// Of that, whose request has not come, or not wholly.
const DRAIN_NEW: Duration = Duration::from_secs(1);
/// How exactly deadlines are kept, and how often they are looked for: none is set for less.
const SWEEP: (u64, u64) = (50, 500);
/// Connections let in before the others have their next turn.
const MAX_ACCEPTS: usize = 64;
/// Requests that the loop is asked without waiting for more of the same turn.
const MAX_ASKED: usize = 8;

const LISTENER: Token = Token(usize::MAX);
const ENGINE: Token = Token(usize::MAX - 1);
const WAKER: Token = Token(usize::MAX - 2);

/// Who answers.
pub enum Site {
    Loop(Engine),
    /// The answer to a method and path, without the loop.
    Page(fn(&str, &str) -> Vec<u8>),
}

/// What other threads have to say to the door.
#[derive(Clone)]
pub struct Bell {
    sender: Sender<Message>,
    waker: Arc<Waker>,
}

enum Message {
    Answers(Vec<Answer>),
    End,
}

pub struct Door {
    listener: Socket,
    site: Site,
    limits: Limits,
    max: usize,
    poll: Poll,
    messages: Receiver<Message>,
    /// By slot; `mio`'s token of each.
    clients: Vec<Option<Box<Client>>>,
    /// Bytes buffered beyond `OWN_BYTES`.
    shared_bytes: usize,
    /// Until then none of who holds them can give way.
    room_at: u64,
    opened: Instant,
    /// On our clock in milliseconds, and as Unix seconds.
    now: u64,
    second: u64,
    /// When deadlines are looked for.
    sweep_at: u64,
    /// Since when each answer is its connection's last.
    ending: Option<Instant>,
    /// Somebody may be at the door, or this one, who found no room yet.
    knocked: bool,
    next: Option<(Socket, Option<IpAddr>)>,
    /// Slots whose turn comes without an event, and whether one need not wait for room.
    turns: Vec<usize>,
    at_once: bool,
    /// Slots whose request is whole, in the order of its coming.
    whole: VecDeque<usize>,
    /// Slots to write to, once what the log says of them is written.
    owed: Vec<usize>,
    log: String,
    scratch: Box<[u8; READ_BYTES]>,
}

/// Whether there is room for one more.
enum Room {
    Made,
    /// Soon: all who could give way have only just come.
    Soon,
    None,
}

impl Bell {
    /// Has answers given to whom they are for. They come in the order of their requests.
    pub fn answer(&self, answers: Vec<Answer>) {
        self.ring(Message::Answers(answers));
    }

    /// Each answer from now on is its connection's last.
    pub fn end(&self) {
        self.ring(Message::End);
    }

    fn ring(&self, message: Message) {
        if self.sender.send(message).is_ok() && self.waker.wake().is_err() {
            broken("the door cannot be woken");
        }
    }
}

impl Door {
    /// Serves at most `max` connections at a time.
    pub fn new(
        listener: Socket,
        site: Site,
        limits: Limits,
        max: usize,
    ) -> io::Result<(Door, Bell)> {
        let poll = Poll::new()?;
        listener.set_nonblocking(true)?;
        let registry = poll.registry();
        registry.register(&mut SourceFd(&listener.as_raw_fd()), LISTENER, Interest::READABLE)?;
        if let Site::Loop(engine) = &site {
            let both = Interest::READABLE | Interest::WRITABLE;
            registry.register(&mut SourceFd(&engine.stream.as_raw_fd()), ENGINE, both)?;
        }
        let waker = Arc::new(Waker::new(registry, WAKER)?);
        let (sender, messages) = mpsc::channel();
        let door = Door {
            listener,
            site,
            limits,
            max,
            poll,
            messages,
            clients: Vec::new(),
            shared_bytes: 0,
            room_at: 0,
            opened: Instant::now(),
            now: 0,
            second: time::now(),
            sweep_at: 0,
            ending: None,
            knocked: true, // an inherited socket may have some waiting
            next: None,
            turns: Vec::new(),
            at_once: false,
            whole: VecDeque::new(),
            owed: Vec::new(),
            log: String::new(),
            scratch: Box::new([0; READ_BYTES]),
        };
        Ok((door, Bell { sender, waker }))
    }

    /// One request of our own, so that the loop has accepted our connection before anybody is let
    /// in: later there may be no descriptor left for it.
    pub fn greet(&mut self) -> Result<(), Reject> {
        let Site::Loop(engine) = &mut self.site else { return Ok(()) };
        let head = head::canonical(b"GET /healthz HTTP/1.0\r\n\r\n", self.limits)?;
        engine.ask(0, "-", &head, &[]);
        engine.flush();
        if let Ok(Message::Answers(answers)) = self.messages.recv() {
            for answer in answers {
                engine.answered(answer.number);
            }
        }
        Ok(())
    }

    /// Serves until told to end, and returns when all who came before are served.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        while !self.is_over() {
            match self.poll.poll(&mut events, self.patience()) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.now = self.opened.elapsed().as_millis() as u64;
            self.second = time::now();
            let turns = std::mem::take(&mut self.turns);
            self.at_once = false;
            for event in &events {
                match event.token() {
                    LISTENER => self.knocked |= self.ending.is_none(),
                    ENGINE if event.is_read_closed() => broken("it went away"),
                    ENGINE | WAKER => {}
                    Token(slot) => {
                        let Some(Some(client)) = self.clients.get_mut(slot) else { continue };
                        client.readable |= event.is_readable();
                        client.hung_up |= event.is_read_closed() || event.is_error();
                        if !client.queued {
                            self.advance(slot);
                        }
                        if self.whole.len() == MAX_ASKED {
                            self.ask(); // the loop has work while we go on
                        }
                    }
                }
            }
            turns.into_iter().for_each(|slot| self.advance(slot));
            self.listen();
            self.sweep();
            self.accept();
            self.ask();
            self.flush_log(); // before anybody can know of it
            std::mem::take(&mut self.owed).into_iter().for_each(|slot| self.advance(slot));
        }
        Ok(())
    }

    /// How long nothing need be done.
    fn patience(&self) -> Option<Duration> {
        if self.at_once {
            Some(Duration::ZERO)
        } else if self.knocked || !self.turns.is_empty() {
            Some(Duration::from_millis(1))
        } else if self.ending.is_some() {
            Some(Duration::from_millis(10))
        } else if self.clients.iter().any(Option::is_some) {
            Some(Duration::from_millis(self.sweep_at.saturating_sub(self.now)))
        } else {
            None
        }
    }

    /// Told to end, and nobody is left who is served, or whose request may be on its way.
    fn is_over(&self) -> bool {
        let Some(start) = self.ending else { return false };
        let is_owed = |client: &Client| {
            let since = client.waiting_since;
            let since = if client.has_begun() { since.max(start) } else { since };
            let takes =
                matches!(&client.stage, Stage::Writing { then, .. } if *then != Then::Refused);
            !client.waits() || takes || since.elapsed() < DRAIN_NEW
        };
        start.elapsed() >= DRAIN
            || !(self.knocked || self.clients.iter().flatten().any(|client| is_owed(client)))
    }

    /// A client's turn: it goes as far as it can.
    fn advance(&mut self, slot: usize) {
        if let Some(mut client) = self.take(slot) {
            client.queued = false;
            let result = self.step(slot, &mut client);
            self.put(slot, client, result);
        }
    }

    /// A client leaves its slot while something is done with it,
    fn take(&mut self, slot: usize) -> Option<Box<Client>> {
        self.clients.get_mut(slot)?.take()
    }

    /// and comes back, if only to be told why it is sent away.
    fn put(&mut self, slot: usize, mut client: Box<Client>, result: Result<(), End>) {
        match result {
            Ok(()) => {}
            Err(End::Refused(reject)) => {
                client.forget();
                let message = self.refusal(client.peer, reject);
                self.pay(slot, &mut client, message.into(), Then::Refused);
            }
            Err(End::Gone) => return self.release(&mut client),
        }
        if let Some(place) = self.clients.get_mut(slot) {
            *place = Some(client);
        }
    }

    fn step(&mut self, slot: usize, client: &mut Client) -> Result<(), End> {
        loop {
            match client.stage {
                Stage::Whole | Stage::Asked { .. } => return Ok(()),
                Stage::Reading => match client.parse(self.limits)? {
                    Lack::Nothing => {
                        self.take_in(slot, client);
                        return Ok(());
                    }
                    Lack::Continue => {
                        client.give(b"HTTP/1.1 100 Continue\r\n\r\n".as_slice(), Then::Read);
                    }
                    Lack::Bytes(_) if !client.readable => return Ok(()),
                    Lack::Bytes(bytes) => match self.reserve(client, client.input.len() + bytes) {
                        Room::Made => {
                            let bytes = self.scratch.get_mut(..bytes).unwrap_or_default();
                            client.read(bytes, self.now)?;
                        }
                        Room::Soon => {
                            self.queue(slot, client, false);
                            return Ok(());
                        }
                        Room::None => return Err(Reject::BUSY.into()),
                    },
                },
                Stage::Writing { .. } => match client.write()? {
                    None => return self.hold(client),
                    // It was told to continue.
                    Some(Then::Read) if client.head.is_some() => client.stage = Stage::Reading,
                    Some(Then::Read) => {
                        self.release(client);
                        client.stage = Stage::Reading;
                        let time = if client.has_begun() { MESSAGE_TIME } else { IDLE_TIME };
                        client.deadline = self.now + time;
                        if client.has_begun() || client.readable {
                            self.queue(slot, client, true); // behind all others
                        }
                        return Ok(());
                    }
                    Some(Then::Close) if !client.has_begun() && !client.readable => {
                        return Err(End::Gone);
                    }
                    Some(_) => {
                        self.release(client);
                        client.forget();
                        client.leave(self.now);
                    }
                },
                Stage::Leaving => {
                    if client.readable {
                        client.receive(self.scratch.as_mut_slice())?;
                        self.queue(slot, client, true);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// A request is whole: it gets an answer of this second, or waits for the loop.
    fn take_in(&mut self, slot: usize, client: &mut Client) {
        let Some((head, _)) = &client.head else { return };
        let message = match &self.site {
            Site::Page(page) => Some(page(head.method(), head.path()).into()),
            Site::Loop(engine) => engine.again(&head.canonical, self.second).inspect(|_| {
                REPEATED.add();
                let (peer, method, path) = (speaker(client, head), head.method(), head.path());
                let text = format!("{peer} {method} {path:?} 200 again");
                self.log += &log::entry(self.second, &text);
            }),
        };
        match message {
            Some(message) => {
                let close = client.take_request().is_none_or(|head| head.close);
                self.pay(slot, client, message, if close { Then::Close } else { Then::Read });
            }
            None => {
                client.stage = Stage::Whole;
                client.deadline = self.now + MAX_WAIT;
                self.whole.push_back(slot);
            }
        }
    }

    /// Hands requests over, as many as the loop may have in hand.
    fn ask(&mut self) {
        let Site::Loop(engine) = &mut self.site else { return };
        while engine.has_room() {
            let Some(slot) = self.whole.pop_front() else { break };
            let client = self.clients.get_mut(slot).and_then(Option::as_deref_mut);
            let Some(client) = client.filter(|client| matches!(client.stage, Stage::Whole)) else {
                continue; // it has waited too long
            };
            if let Some((head, _)) = &client.head {
                engine.ask(slot, &speaker(client, head), head, client.body());
            }
            if let Some(head) = client.take_request() {
                client.stage = Stage::Asked { head, second: self.second };
                client.deadline = self.now + TIMEOUT;
            }
        }
        engine.flush();
    }

    /// What the other threads said.
    fn listen(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Answers(answers) => {
                    answers.into_iter().for_each(|answer| self.take_answer(answer));
                }
                Message::End => {
                    self.ending = self.ending.or(Some(Instant::now()));
                    self.knocked = true; // who came before is let in
                }
            }
        }
    }

    fn take_answer(&mut self, Answer { number, message, reusable }: Answer) {
        let Site::Loop(engine) = &mut self.site else { return };
        let slot = engine.answered(number);
        let Some(mut client) = self.clients.get_mut(slot).and_then(Option::take) else { return };
        if let Stage::Asked { head, second } = std::mem::replace(&mut client.stage, Stage::Whole) {
            let message = Arc::from(message);
            if reusable && head.length == 0 {
                engine.remember(head.canonical, &message, second, self.second);
            }
            let then = if head.close { Then::Close } else { Then::Read };
            self.pay(slot, &mut client, message, then);
        }
        self.put(slot, client, Ok(()));
    }

    /// Has a client's answer written next.
    fn pay(&mut self, slot: usize, client: &mut Client, message: Arc<[u8]>, then: Then) {
        self.release(client); // what its request took
        let last = then == Then::Read && self.ending.is_some();
        client.give(message, if last { Then::Close } else { then });
        client.deadline = self.now + MESSAGE_TIME;
        client.waiting_since = Instant::now();
        client.queued = true;
        self.owed.push(slot);
    }

    /// Gives a client a turn without an event, at once or when there may be room.
    fn queue(&mut self, slot: usize, client: &mut Client, at_once: bool) {
        client.queued = true;
        self.at_once |= at_once;
        self.turns.push(slot);
    }

    /// Counts what a client does not take of its answer, unless others have that too.
    fn hold(&mut self, client: &mut Client) -> Result<(), End> {
        let Stage::Writing { message, .. } = &client.stage else { return Ok(()) };
        let bytes = if Arc::strong_count(message) == 1 { message.len() } else { 0 };
        match self.reserve(client, bytes) {
            Room::Made => Ok(()),
            _ => Err(End::Gone),
        }
    }

    /// A refusal, and its line in the log.
    fn refusal(&mut self, peer: Option<IpAddr>, Reject(status, reason): Reject) -> Vec<u8> {
        REFUSALS.add_for(reason);
        let text = format!("{} - {status} reason={reason:?}", name(peer));
        self.log += &log::entry(self.second, &text);
        let body = format!("{{\"reason\":\"{reason}\"}}");
        let length = body.len();
        format!(
            "HTTP/1.1 {status} Refused\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    fn flush_log(&mut self) {
        if !self.log.is_empty() {
            log::lines(&self.log);
            self.log.clear();
        }
    }

    /// Lets in who has come, if there is room.
    fn accept(&mut self) {
        for _ in 0..MAX_ACCEPTS {
            if !self.knocked {
                return;
            }
            let next = self.next.take().map_or_else(|| self.listener.accept().map(known), Ok);
            match next {
                Ok((stream, peer)) => match self.room_for(peer) {
                    Room::Made => self.admit(stream, peer),
                    Room::Soon => {
                        self.next = Some((stream, peer));
                        return;
                    }
                    Room::None => {
                        let message = self.refusal(peer, Reject::BUSY);
                        self.flush_log();
                        let _ = stream.set_nonblocking(true);
                        let _ = stream.send(&message); // it fits what the system buffers
                    }
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.knocked = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                // Out of descriptors, most likely: whoever has waited longest frees one.
                Err(_) if matches!(self.evict(|_| true), Room::Made) => {}
                Err(_) => return,
            }
        }
    }

    fn admit(&mut self, stream: Socket, peer: Option<IpAddr>) {
        let free = self.clients.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.clients.len());
        let registry = self.poll.registry();
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = stream.set_nonblocking(true).and_then(|()| {
            registry.register(&mut SourceFd(&stream.as_raw_fd()), Token(slot), both)
        });
        if registered.is_err() {
            return; // out of memory, or of what a user may watch
        }
        if free.is_none() {
            self.clients.push(None);
        }
        CONNECTIONS.add();
        self.put(slot, Box::new(Client::new(stream, peer, self.now)), Ok(()));
    }

    /// Of a newcomer's own source first: then nobody else gives way for what it may not have.
    fn room_for(&mut self, peer: Option<IpAddr>) -> Room {
        let neighbour = |other: &Client| other.peer.map(source) == peer.map(source);
        let quota = if is_local(peer) { self.max } else { self.max.div_ceil(4) };
        match self.make_room(quota, neighbour) {
            Room::Made => self.make_room(self.max, |_| true),
            room => room,
        }
    }

    /// Ends waiting connections until fewer than `max` are `of` the kind.
    fn make_room(&mut self, max: usize, of: impl Fn(&Client) -> bool + Copy) -> Room {
        while self.clients.iter().flatten().filter(|client| of(client)).count() >= max {
            match self.evict(of) {
                Room::Made => {}
                room => return room,
            }
        }
        Room::Made
    }

    /// Ends the connection that has waited longest without a complete request.
    fn evict(&mut self, of: impl Fn(&Client) -> bool) -> Room {
        let clients = self.clients.iter().enumerate();
        let waiting = clients.filter_map(|(slot, client)| Some((slot, client.as_deref()?)));
        let waiting = waiting.filter(|(_, client)| client.waits() && of(client));
        let longest = waiting.map(|(slot, client)| (client.waiting_since, slot)).min();
        let Some((since, slot)) = longest else { return Room::None };
        if since.elapsed() < MIN_WAIT {
            return Room::Soon;
        }
        EVICTIONS.add();
        if let Some(client) = self.take(slot) {
            self.put(slot, client, Err(End::Gone));
        }
        Room::Made
    }

    /// Makes sure that the client may buffer `bytes`. What goes beyond its own is everybody's: when
    /// that is gone, whoever holds some of it and has waited longest gives way.
    fn reserve(&mut self, client: &mut Client, bytes: usize) -> Room {
        let more = bytes.saturating_sub(OWN_BYTES + client.reserved);
        while more > 0 && self.shared_bytes + more > SHARED_BYTES {
            if self.now < self.room_at {
                return Room::Soon;
            }
            match self.evict(|other| other.reserved > 0) {
                Room::Made => {}
                Room::Soon => self.room_at = self.now + 1,
                Room::None => return Room::None,
            }
        }
        self.shared_bytes += more;
        client.reserved += more;
        Room::Made
    }

    /// Gives back what the client reserved.
    fn release(&mut self, client: &mut Client) {
        self.shared_bytes -= std::mem::take(&mut client.reserved);
    }

    /// Sends those away whose time is over.
    fn sweep(&mut self) {
        if self.now < self.sweep_at {
            return;
        }
        let mut next = self.now + SWEEP.1;
        for slot in 0..self.clients.len() {
            let Some(client) = self.take(slot) else { continue };
            let result = match client.stage {
                _ if self.now < client.deadline => {
                    next = next.min(client.deadline);
                    Ok(())
                }
                Stage::Reading if client.has_begun() => Err(Reject::TOO_SLOW.into()),
                Stage::Whole => Err(Reject::BUSY.into()),
                Stage::Asked { .. } => broken("no answer"),
                _ => Err(End::Gone),
            };
            self.put(slot, client, result);
        }
        self.sweep_at = next.max(self.now + SWEEP.0);
    }
}

/// With the address in one spelling.
fn known((stream, peer): (Socket, SockAddr)) -> (Socket, Option<IpAddr>) {
    (stream, peer.as_socket().map(|peer| peer.ip().to_canonical()))
}

/// Who stands behind a proxy on this machine, the proxy says; others may say what they like.
fn speaker(client: &Client, head: &Head) -> String {
    name(head.forwarded_for.filter(|_| is_local(client.peer)).or(client.peer))
}

/// Of a client in the log.
fn name(peer: Option<IpAddr>) -> String {
    peer.map_or("-".to_owned(), |peer| peer.to_string())
}

/// True on a Unix socket and on loopback: a proxy of our own, most likely.
fn is_local(peer: Option<IpAddr>) -> bool {
    peer.is_none_or(|peer| peer.is_loopback())
}

/// Who counts as one source: an address, or all of an IPv6 customer's network.
fn source(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}
