//! The `Sessions` service, by hand: what the generated one does, but with a codec that encodes from the outbox.

use std::{
    convert::Infallible,
    future::Ready,
    sync::Arc,
    task::{Context, Poll},
};

use conclave_faults::point;
use conclave_proto::v1;
use futures_util::future::BoxFuture;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{Service as HttpService, http},
    server::{Grpc, NamedService, StreamingService},
};

use super::{
    Service,
    admit::{Caller, How},
    codec::Frames,
    door::Info,
    outbox::{Drain, Outbox},
    session,
};

/// Serves `conclave.v1.Sessions`.
#[derive(Clone)]
pub struct SessionsServer(Arc<Service>);

impl SessionsServer {
    /// Over the shared parts.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Self {
        Self(service)
    }
}

impl NamedService for SessionsServer {
    const NAME: &'static str = v1::sessions_server::SERVICE_NAME;
}

struct Stream(Arc<Service>);

impl StreamingService<v1::ClientFrame> for Stream {
    type Response = Arc<Outbox>;
    type ResponseStream = Drain;
    type Future = Ready<Result<Response<Drain>, Status>>;

    fn call(&mut self, request: Request<Streaming<v1::ClientFrame>>) -> Self::Future {
        point!("session-accept", |error| std::future::ready(Err(Status::unavailable(error.to_string()))));
        if let Some(caller) = request.extensions().get::<Caller>()
            && caller.how != How::Anonymous
        {
            tracing::info!(caller = %caller.name, how = ?caller.how, remote = ?remote(&request), "a session stream begins");
        }
        let outbox = Outbox::new(self.0.limits.outbox_bytes_max.0 as usize);
        self.0.tasks.spawn(session::serve(self.0.clone(), outbox.clone(), request.into_inner()));
        std::future::ready(Ok(Response::new(Drain(outbox))))
    }
}

fn remote<T>(request: &Request<T>) -> Option<std::net::SocketAddr> {
    request.extensions().get::<Info>().and_then(|info| info.remote)
}

impl HttpService<http::Request<Body>> for SessionsServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            if request.uri().path() != "/conclave.v1.Sessions/Stream" {
                return Ok(Status::unimplemented("Sessions has one method: Stream").into_http());
            }
            let max = service.limits.request_bytes_max.0 as usize;
            let mut grpc = Grpc::new(Frames).apply_max_message_size_config(Some(max), None);
            Ok(grpc.streaming(Stream(service), request).await)
        })
    }
}
