//! One check: asks a backend once, and says what is wrong. A file for each kind.
//!
//! Every wait has its end at the check's deadline, and every answer is read up to a bound: a server that stalls or never stops
//! talking costs one socket for one timeout.

mod datagram;
mod grpc;
mod http;
mod script;
mod tcp;
mod tls;

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{Failure, Job};
use crate::rules::{Check, GrpcCheck};

/// The time a check has.
#[derive(Clone, Copy, Debug)]
struct Limit {
    timeout: Duration,
    deadline: Instant,
}

impl Limit {
    fn from_now(timeout: Duration) -> Self {
        Self { timeout, deadline: Instant::now() + timeout }
    }

    /// What comes of `work`, or, at the deadline, that there was no `what`.
    async fn wait<T>(self, what: &str, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let late = || Failure::backend(format!("no {what} within {:?}", self.timeout));
        timeout_at(self.deadline, work).await.unwrap_or_else(|_| Err(late()))
    }
}

/// Checks once.
pub async fn probe(job: &Job) -> Result<(), Failure> {
    if let Some(obstacle) = &job.obstacle {
        return Err(Failure::OfThisHost(format!("not checked: {obstacle}")));
    }
    let limit = Limit::from_now(job.health.timeout);
    match &job.health.check {
        Check::Tcp => tcp::check(job.target, limit).await,
        Check::Http(check) => {
            let stream = connect(job, limit).await?;
            limit.wait("answer to HTTP", http::ask(stream, check, job.asked_for)).await
        }
        Check::Https(check, tls) => {
            let stream = tls::secured(job, connect(job, limit).await?, tls, limit).await?;
            limit.wait("answer to HTTP", http::ask(stream, check, job.asked_for)).await
        }
        Check::Tls(tls) => tls::check(job, tls, limit).await,
        Check::Udp(check) => datagram::udp(job.target, check, limit).await,
        Check::Dns(check) => datagram::dns(job.target, check, limit).await,
        Check::Grpc(check) => grpc(job, check, limit).await,
        Check::Script(argv) => script::check(job, argv).await,
        // Nothing is asked: `passive` judges.
        Check::Passive(_) => Ok(()),
    }
}

async fn grpc(job: &Job, check: &GrpcCheck, limit: Limit) -> Result<(), Failure> {
    let stream = connect(job, limit).await?;
    let Some(tls) = &check.tls else {
        return limit.wait("answer to gRPC", grpc::ask(stream, &check.service, job.asked_for)).await;
    };
    let stream = tls::secured(job, stream, tls, limit).await?;
    limit.wait("answer to gRPC", grpc::ask(stream, &check.service, job.asked_for)).await
}

async fn connect(job: &Job, limit: Limit) -> Result<TcpStream, Failure> {
    let connect = async {
        let mut stream = TcpStream::connect(job.target).await.map_err(|error| Failure::of_io(&error))?;
        stream.write_all(job.greeting).await.map_err(|error| Failure::of_io(&error))?;
        Ok(stream)
    };
    limit.wait("connection", connect).await
}

/// The answer, while the connection that it comes by is driven: here and not by a task of its own, so that it ends with the check.
async fn driven<T>(answer: impl Future<Output = T>, connection: impl Future) -> T {
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    let mut is_open = true;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            _ = &mut connection, if is_open => is_open = false,
        }
    }
}
