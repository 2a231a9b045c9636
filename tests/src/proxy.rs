//! A TCP relay between a client and a broker that misbehaves on demand.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::net;

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the broker.
    ToBroker,
    /// From the broker to the client.
    ToClient,
}

/// What happens to bytes, and to the end of the stream behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// They go through.
    Pass,
    /// They arrive later by this much; the rate stays.
    Delay(Duration),
    /// They go through at this many bytes per second.
    Throttle(u32),
    /// They wait until another flow is set, then arrive complete: a network that comes back.
    Hold,
    /// They vanish. A direction of a connection that has lost bytes stays dead whatever is set later, as
    /// behind a firewall that forgot the connection: a stream with a hole in it exists in no network. New
    /// connections are not affected.
    Swallow,
    /// All bits are turned over.
    Garble,
    /// This many bytes go through on each connection, counted from when this was set; then the connection
    /// is closed.
    CutAfter(u64),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// RST to both sides.
    Reset,
    /// FIN to both sides.
    Close,
}

/// A relay in front of a port of 127.0.0.1. All connections are reset when it is dropped.
///
/// It connects to the broker for every client that it accepts, whatever the flow is; when the broker refuses,
/// the client's connection is reset.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    relay: Arc<Relay>,
    door: tokio::sync::Mutex<Door>,
}

#[derive(Debug)]
enum Door {
    Open(JoinHandle<()>),
    /// Bound without listening: connects are refused, and nobody else gets the port.
    Shut(TcpSocket),
    /// Between the two.
    Moving,
}

#[derive(Debug)]
struct Relay {
    broker: u16,
    flows: watch::Sender<Flows>,
    next: AtomicU64,
    live: Mutex<Live>,
    forwarded: [AtomicU64; 2],
}

type Flows = [Flow; 2];

#[derive(Debug, Default)]
struct Live {
    /// The proxy is gone: no connection may start.
    closed: bool,
    connections: HashMap<u64, (oneshot::Sender<End>, JoinHandle<()>)>,
}

impl FaultProxy {
    /// Starts a relay to `broker`, a port of 127.0.0.1, with [`Flow::Pass`].
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(broker: u16) -> Self {
        let (flows, _) = watch::channel([Flow::Pass; 2]);
        let relay = Arc::new(Relay {
            broker,
            flows,
            next: AtomicU64::new(0),
            live: Mutex::default(),
            forwarded: Default::default(),
        });
        let socket = loop {
            if let Ok(socket) = bind(net::free_port()) {
                break socket;
            }
        };
        let port = socket.local_addr().map(|address| address.port());
        let port = port.unwrap_or_else(|error| panic!("the fault proxy has no port: {error}"));
        let door = tokio::sync::Mutex::new(Door::Open(listen(socket, &relay)));
        Self { port, relay, door }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What happens to bytes in both directions from now on, on old and new connections.
    pub fn set(&self, flow: Flow) {
        self.relay.flows.send_replace([flow; 2]);
    }

    /// What happens to bytes in one direction from now on, on old and new connections.
    pub fn set_one(&self, direction: Direction, flow: Flow) {
        self.relay
            .flows
            .send_modify(|flows| flows[direction as usize] = flow);
    }

    /// Resets all connections (RST to both sides). New ones are accepted.
    pub async fn reset(&self) {
        self.end_all(End::Reset).await;
    }

    /// Closes all connections in order (FIN to both sides). New ones are accepted.
    pub async fn close(&self) {
        self.end_all(End::Close).await;
    }

    /// Stops listening: new connections are refused. Old ones stay.
    pub async fn refuse(&self) {
        let mut door = self.door.lock().await;
        if let Door::Open(acceptor) = &mut *door {
            acceptor.abort();
            // Only the end of our own abort: it says that the listener is closed.
            let _ = acceptor.await;
            *door = Door::Moving;
            let socket = bind(self.port);
            let socket = socket.unwrap_or_else(|error| panic!("could not keep port {}: {error}", self.port));
            *door = Door::Shut(socket);
        }
    }

    /// Listens again after [`refuse`](Self::refuse), on the same port.
    pub async fn accept(&self) {
        let mut door = self.door.lock().await;
        *door = match std::mem::replace(&mut *door, Door::Moving) {
            Door::Shut(socket) => Door::Open(listen(socket, &self.relay)),
            other => other,
        };
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        let mut live = self.relay.live.lock();
        live.connections.retain(|_, (_, task)| !task.is_finished());
        live.connections.len()
    }

    /// How many connections have been accepted.
    pub fn accepted(&self) -> u64 {
        self.relay.next.load(Ordering::SeqCst)
    }

    /// How many bytes have been passed on in a direction.
    pub fn forwarded(&self, direction: Direction) -> u64 {
        self.relay.forwarded[direction as usize].load(Ordering::SeqCst)
    }

    async fn end_all(&self, end: End) {
        let live = std::mem::take(&mut self.relay.live.lock().connections);
        let mut tasks = Vec::new();
        for (sender, task) in live.into_values() {
            // One that has just ended by itself does not listen any more.
            let _ = sender.send(end);
            tasks.push(task);
        }
        for task in tasks {
            task.await
                .unwrap_or_else(|error| panic!("a connection of the fault proxy failed: {error}"));
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Door::Open(acceptor) = self.door.get_mut() {
            acceptor.abort();
        }
        // Without their senders the connections reset themselves.
        let mut live = self.relay.live.lock();
        live.closed = true;
        live.connections.clear();
    }
}

fn bind(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Old connections of the port must not keep it from us.
    socket.set_reuseaddr(true)?;
    socket.bind(net::local(port))?;
    Ok(socket)
}

fn listen(socket: TcpSocket, relay: &Arc<Relay>) -> JoinHandle<()> {
    let listener = socket.listen(1024);
    let listener = listener.unwrap_or_else(|error| panic!("the fault proxy could not listen: {error}"));
    // Weak: connections end when the proxy is dropped.
    let relay = Arc::downgrade(relay);
    tokio::spawn(async move {
        while let Some(client) = accept(&listener).await {
            let Some(relay) = relay.upgrade() else { return };
            let (sender, receiver) = oneshot::channel();
            let id = relay.next.fetch_add(1, Ordering::SeqCst);
            let mut live = relay.live.lock();
            if live.closed {
                return;
            }
            let task = tokio::spawn(connection(client, Arc::clone(&relay), receiver));
            live.connections.retain(|_, (_, task)| !task.is_finished());
            live.connections.insert(id, (sender, task));
        }
    })
}

async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    listener.accept().await.ok().map(|(client, _)| client)
}

async fn connection(mut client: TcpStream, relay: Arc<Relay>, mut end: oneshot::Receiver<End>) {
    let broker = tokio::select! {
        broker = TcpStream::connect(net::local(relay.broker)) => broker,
        _ = &mut end => Err(io::ErrorKind::Interrupted.into()),
    };
    let Ok(mut broker) = broker else {
        let _ = client.set_zero_linger();
        return;
    };
    // Small messages must arrive at once, or a test would measure the relay.
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    let end = {
        let (from_client, to_client) = client.split();
        let (from_broker, to_broker) = broker.split();
        let there = Pump::new(Direction::ToBroker, &relay).run(from_client, to_broker);
        let back = Pump::new(Direction::ToClient, &relay).run(from_broker, to_client);
        tokio::select! {
            // Without a sender the proxy is gone.
            end = &mut end => end.unwrap_or(End::Reset),
            done = async { tokio::try_join!(there, back) } => done.err().unwrap_or(End::Close),
        }
    };
    match end {
        End::Reset => {
            let _ = (client.set_zero_linger(), broker.set_zero_linger());
        }
        End::Close => {
            let drain = async { tokio::join!(finish(&mut client), finish(&mut broker)) };
            let _ = tokio::time::timeout(Duration::from_secs(1), drain).await;
        }
    }
}

/// Sends FIN and reads what still comes: closing a socket with unread bytes would send RST.
async fn finish(stream: &mut TcpStream) {
    let _ = stream.shutdown().await;
    let mut scrap = vec![0; 16 * 1024];
    while matches!(stream.read(&mut scrap).await, Ok(1..)) {}
}

/// What was read from one side.
enum Item {
    Bytes(Vec<u8>),
    /// FIN.
    Finished,
    /// RST, or another failure.
    Broken,
}

/// One direction of a connection.
struct Pump<'a> {
    direction: Direction,
    flows: watch::Receiver<Flows>,
    forwarded: &'a AtomicU64,
    /// Bytes have been lost.
    dead: bool,
    /// The flow that was last seen, and how many bytes went through under it.
    seen: (Flow, u64),
}

impl<'a> Pump<'a> {
    fn new(direction: Direction, relay: &'a Relay) -> Self {
        Self {
            direction,
            flows: relay.flows.subscribe(),
            forwarded: &relay.forwarded[direction as usize],
            dead: false,
            seen: (Flow::Pass, 0),
        }
    }

    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), End> {
        // Read ahead, so that a delay does not lower the rate; with a bound, so that a held connection
        // fills up and stops its sender, as a real one does.
        let (sender, mut items) = mpsc::channel(64);
        let read = async move {
            loop {
                let mut chunk = vec![0; 16 * 1024];
                let item = match from.read(&mut chunk).await {
                    Ok(0) => Item::Finished,
                    Ok(count) => {
                        chunk.truncate(count);
                        Item::Bytes(chunk)
                    }
                    Err(_) => Item::Broken,
                };
                let last = !matches!(item, Item::Bytes(_));
                if sender.send((Instant::now(), item)).await.is_err() || last {
                    return Ok(());
                }
            }
        };
        let write = async move {
            while let Some((arrived, item)) = items.recv().await {
                self.pass_on(arrived, item, &mut to).await?;
            }
            Ok(())
        };
        tokio::try_join!(read, write).map(|_| ())
    }

    async fn pass_on(&mut self, arrived: Instant, item: Item, to: &mut WriteHalf<'_>) -> Result<(), End> {
        let mut bytes = match item {
            Item::Bytes(bytes) => bytes,
            Item::Finished | Item::Broken if self.wait(arrived).await == Flow::Swallow => {
                return std::future::pending().await;
            }
            Item::Finished => return to.shutdown().await.map_err(|_| End::Reset),
            Item::Broken => return Err(End::Reset),
        };
        while !bytes.is_empty() {
            let flow = self.wait(arrived).await;
            if self.seen.0 != flow {
                self.seen = (flow, 0);
            }
            let count = match flow {
                Flow::Swallow => {
                    self.dead = true;
                    return Ok(());
                }
                Flow::Garble => {
                    bytes.iter_mut().for_each(|byte| *byte = !*byte);
                    bytes.len()
                }
                Flow::Throttle(rate) => {
                    // Twenty pieces a second.
                    let count = bytes.len().min((rate as usize / 20).max(1));
                    let time = Duration::from_secs_f64(count as f64 / f64::from(rate.max(1)));
                    self.pause(Instant::now() + time).await;
                    count
                }
                Flow::CutAfter(limit) => {
                    let left = usize::try_from(limit - self.seen.1).unwrap_or(usize::MAX);
                    bytes.len().min(left)
                }
                Flow::Pass | Flow::Delay(_) | Flow::Hold => bytes.len(),
            };
            to.write_all(&bytes[..count]).await.map_err(|_| End::Reset)?;
            self.forwarded.fetch_add(count as u64, Ordering::SeqCst);
            self.seen.1 += count as u64;
            bytes.drain(..count);
            if matches!(flow, Flow::CutAfter(limit) if self.seen.1 >= limit) {
                return Err(End::Close);
            }
        }
        Ok(())
    }

    /// The flow for what came at `arrived`, once its time has come.
    async fn wait(&mut self, arrived: Instant) -> Flow {
        if self.dead {
            return Flow::Swallow;
        }
        loop {
            let flow = self.flows.borrow_and_update()[self.direction as usize];
            match flow {
                Flow::Hold => {
                    if self.flows.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                }
                Flow::Delay(time) if Instant::now() < arrived + time => self.pause(arrived + time).await,
                flow => return flow,
            }
        }
    }

    /// Waits until `time` or another flow.
    async fn pause(&mut self, time: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(time) => {}
            _ = self.flows.changed() => {}
        }
    }
}
