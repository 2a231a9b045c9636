//! Free ports and waiting for a server behind one.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// `127.0.0.1:port`.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A port of 127.0.0.1 that nobody listens on now.
///
/// Below the range from which the kernel takes the ports of outgoing connections: there a connection of
/// another process could take the port while a broker is down between stop and restart.
pub(crate) fn free_port() -> u16 {
    for _ in 0..1_000 {
        let port = rand::random_range(12_000..32_000);
        if TcpListener::bind(local(port)).is_ok() {
            return port;
        }
    }
    panic!("no free port of 127.0.0.1 between 12000 and 32000");
}

/// Different free ports.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    loop {
        let ports = std::array::from_fn(|_| free_port());
        let mut sorted = ports;
        sorted.sort_unstable();
        if sorted.windows(2).all(|pair| pair[0] != pair[1]) {
            return ports;
        }
    }
}

/// Connects to `port`, sends `question` and reads until `answered` says that it has seen enough. Returns what came.
///
/// # Errors
/// In words, when there is no connection, no answer within ten seconds, which a busy machine may need, or another one.
pub(crate) fn ask(port: u16, question: &[u8], answered: fn(&[u8]) -> bool) -> Result<Vec<u8>, String> {
    let limit = Duration::from_secs(10);
    let mut stream =
        TcpStream::connect_timeout(&local(port), limit).map_err(|error| format!("connect: {error}"))?;
    let timeouts = stream
        .set_read_timeout(Some(limit))
        .and_then(|()| stream.set_write_timeout(Some(limit)));
    timeouts.map_err(|error| format!("set time limits: {error}"))?;
    stream
        .write_all(question)
        .map_err(|error| format!("write: {error}"))?;
    let mut answer = Vec::new();
    let mut chunk = [0; 512];
    while !answered(&answer) {
        match stream.read(&mut chunk) {
            Ok(0) => return Err(format!("closed after {:?}", String::from_utf8_lossy(&answer))),
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) => {
                return Err(format!(
                    "read after {:?}: {error}",
                    String::from_utf8_lossy(&answer)
                ));
            }
        }
        if answer.len() > 4_096 {
            return Err(format!(
                "unexpected answer {:?}",
                String::from_utf8_lossy(&answer)
            ));
        }
    }
    Ok(answer)
}
