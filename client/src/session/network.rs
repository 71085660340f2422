//! A session's environment in production: the machine's clock and chance, tokio's tasks and timers, gRPC.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::StreamExt as _;
use tonic::{Request, Status, codegen::http::uri::PathAndQuery};

use super::{driver::Outgoing, wire::FrameCodec};
use crate::{
    BootTime,
    config::MESSAGE_BYTES_MAX,
    endpoints::{Endpoints, describe, random},
    env::{Boxed, Env, Incoming, Opening},
    link::Link,
};

/// See the module.
pub(crate) struct Network(pub(crate) Arc<Endpoints>);

impl Env for Network {
    fn now(&self) -> BootTime {
        BootTime::now()
    }

    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, time: Duration) -> Boxed<()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn random(&self) -> u64 {
        random() as u64
    }

    fn spawn(&self, task: Boxed<()>) {
        tokio::spawn(task);
    }

    fn endpoints(&self) -> Vec<String> {
        self.0.names()
    }

    fn first(&self) -> Boxed<usize> {
        let endpoints = self.0.clone();
        Box::pin(async move { endpoints.first().await })
    }

    fn after(&self, at: usize) -> Boxed<usize> {
        let endpoints = self.0.clone();
        Box::pin(async move { endpoints.after(at).await })
    }

    fn open(&self, at: usize, outgoing: Outgoing) -> Opening {
        let (connection, channel) = self.0.channel(at);
        let incoming = Box::pin(async move { open(channel, outgoing).await.map_err(|status| describe(&status)) });
        Opening { connection, incoming }
    }

    fn discard(&self, at: usize, connection: usize) {
        self.0.discard(at, connection);
    }
}

async fn open(channel: Link, outgoing: Outgoing) -> Result<Incoming, Status> {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let path = PathAndQuery::from_static("/conclave.v1.Sessions/Stream");
    let stream = grpc.streaming(Request::new(outgoing), path, FrameCodec).await?.into_inner();
    Ok(Box::pin(stream.map(|frame| frame.map_err(|status| describe(&status)))))
}
