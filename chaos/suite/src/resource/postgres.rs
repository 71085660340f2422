//! The counters in PostgreSQL.

use std::path::Path;

use anyhow::Context as _;
use conclave_client::fence::postgres;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, Config, NoTls};

use super::{Asked, LOG, Logged, NOTE, READ, Store, WAIT_MAX, WRITE, server::USER};
use crate::clock::now_ns;

pub(super) struct Postgres {
    /// The connection lives in it. It has a thread of its own, as it moves also when nobody waits for an answer: who was refused is
    /// rolled back at once, and does not keep others waiting until its next turn.
    runtime: Runtime,
    client: Client,
    fence: Option<postgres::Fence>,
}

impl Postgres {
    /// Connects to the server that has its socket in this directory.
    pub(super) fn open(socket: &Path, fenced: bool) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().context("no thread")?;
        let mut config = Config::new();
        config.host_path(socket).user(USER).dbname("postgres").connect_timeout(WAIT_MAX);
        config.options(format!("-c lock_timeout={}", WAIT_MAX.as_millis()));
        let (client, fence) = runtime
            .block_on(async {
                let (client, connection) = config.connect(NoTls).await?;
                // It ends with an error that the next touch has, too.
                tokio::spawn(connection);
                client
                    .batch_execute(
                        "CREATE TABLE IF NOT EXISTS counter (key TEXT PRIMARY KEY, value BIGINT NOT NULL);
                         CREATE TABLE IF NOT EXISTS log (seq BIGSERIAL PRIMARY KEY, at_ns BIGINT NOT NULL,
                             key TEXT NOT NULL, client TEXT NOT NULL, token BIGINT, is_write BOOLEAN NOT NULL, value BIGINT NOT NULL);",
                    )
                    .await?;
                let fence = if fenced { Some(postgres::Fence::new(&client).await?) } else { None };
                Ok::<_, tokio_postgres::Error>((client, fence))
            })
            .with_context(|| format!("PostgreSQL in {}", socket.display()))?;
        Ok(Self { runtime, client, fence })
    }
}

impl Store for Postgres {
    /// What the log counts is in order for each key: whoever enters the fence keeps others off that row until it commits.
    fn touch(&mut self, touch: &Asked<'_>) -> anyhow::Result<Result<i64, String>> {
        let (client, fence) = (&mut self.client, self.fence);
        self.runtime.block_on(async {
            let tx = client.transaction().await?;
            if let Some(fence) = fence {
                match fence.enter(&tx, touch.key, touch.token()?).await {
                    Ok(()) => {}
                    Err(error) if error.is_stale() => return Ok(Err(error.to_string())),
                    Err(error) => return Err(error.into()),
                }
            }
            let value = match touch.write {
                Some(value) => {
                    tx.execute(WRITE, &[&touch.key, &value]).await?;
                    value
                }
                None => tx.query_one(READ, &[&touch.key]).await?.get(0),
            };
            let (number, written) = (touch.number(), touch.write.is_some());
            tx.execute(NOTE, &[&now_ns(), &touch.key, &touch.client, &number, &written, &value]).await?;
            tx.commit().await?;
            Ok(Ok(value))
        })
    }

    fn log(&mut self) -> anyhow::Result<Vec<Logged>> {
        let rows = self.runtime.block_on(self.client.query(LOG, &[]))?;
        let logged = |row: &tokio_postgres::Row| {
            Ok(Logged {
                key: row.try_get(0)?,
                client: row.try_get(1)?,
                token: row.try_get(2)?,
                write: row.try_get(3)?,
                value: row.try_get(4)?,
                at_ns: row.try_get(5)?,
            })
        };
        rows.iter().map(logged).collect()
    }
}
