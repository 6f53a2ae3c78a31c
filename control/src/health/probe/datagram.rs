//! Whether a datagram is answered, or refused: any datagram, or a DNS query (RFC 1035 section 4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use tokio::net::UdpSocket;
use tokio::time::timeout_at;

use super::{Failure, Limit};
use crate::random;
use crate::rules::{DnsCheck, UdpCheck};

/// Sends the datagram. Where nothing is expected silence is an answer too: all that can be seen of a server that has nothing to say
/// is that its host does not refuse (RFC 1122 section 3.2.2.1, port unreachable).
pub(super) async fn udp(target: SocketAddr, check: &UdpCheck, limit: Limit) -> Result<(), Failure> {
    let socket = asked(target, check.send.as_bytes()).await?;
    let mut answer = [0; 65_535];
    let Some(expect) = &check.expect else {
        return match timeout_at(limit.deadline, receive(&socket, &mut answer)).await {
            Ok(received) => received.map(drop),
            Err(_) => Ok(()),
        };
    };
    let len = limit.wait("answer", receive(&socket, &mut answer)).await?;
    let contains =
        |text: &[u8]| text.is_empty() || answer[..len].windows(text.len()).any(|window| window == text);
    if contains(expect.as_bytes()) {
        Ok(())
    } else {
        Err(Failure::backend(format!("no {expect:?} in the answer")))
    }
}

/// Asks, and takes the first answer to this query: with its id and its question, as a late one to another check may come from an
/// l4_port that was used before.
pub(super) async fn dns(target: SocketAddr, check: &DnsCheck, limit: Limit) -> Result<(), Failure> {
    let mut query = Message::new(random::word() as u16, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(check.name.clone(), check.record_type));
    let bytes = query.to_vec().map_err(|error| Failure::OfThisHost(format!("not checked: {error}")))?;
    let socket = asked(target, &bytes).await?;
    let mut buffer = [0; 4_096];
    let answer = limit.wait("answer to DNS", async {
        loop {
            let len = receive(&socket, &mut buffer).await?;
            let answer = Message::from_vec(&buffer[..len]);
            let answer =
                answer.map_err(|error| Failure::backend(format!("no valid answer to DNS: {error}")))?;
            if answer.metadata.id == query.metadata.id && answer.queries == query.queries {
                return Ok(answer);
            }
        }
    });
    judge(&answer.await?, check)
}

fn judge(answer: &Message, check: &DnsCheck) -> Result<(), Failure> {
    let DnsCheck { name, record_type } = check;
    match answer.metadata.response_code {
        ResponseCode::NoError if !answer.answers.is_empty() || answer.metadata.truncation => Ok(()),
        ResponseCode::NoError => {
            Err(Failure::backend(format!("no {record_type} record of {name} in the answer")))
        }
        code => Err(Failure::backend(format!("{name} {record_type}: {}", code.to_str().to_lowercase()))),
    }
}

/// A socket from which `payload` was sent.
async fn asked(target: SocketAddr, payload: &[u8]) -> Result<UdpSocket, Failure> {
    let any: IpAddr =
        if target.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let failure = |error| Failure::of_io(&error);
    let socket = UdpSocket::bind((any, 0)).await.map_err(failure)?;
    // Connected, so that it hears of ICMP errors, and of nobody else.
    socket.connect(target).await.map_err(failure)?;
    socket.send(payload).await.map_err(failure)?;
    Ok(socket)
}

async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Result<usize, Failure> {
    socket.recv(buffer).await.map_err(|error| Failure::of_io(&error))
}
