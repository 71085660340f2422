//! A fence in PostgreSQL (9.5 or newer): the token is compared in the very transaction that reads or writes.

use conclave_proto::FencingToken;
use tokio_postgres::{Client, GenericClient, Transaction, types::Type};

use super::{Stale, sql};

/// Taken while the table is made: `IF NOT EXISTS` alone fails where two make it at once.
const MAKING: i64 = 0x636f_6e63_6c61_7665;

/// A late holder was turned away, or PostgreSQL failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A larger token was seen.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// PostgreSQL's own error, or the connection's.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
}

impl Error {
    /// True where the token was too old, so that the holder must stop.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale(_))
    }
}

/// Keeps the largest token of each resource in the table `conclave_fence`.
///
/// ```no_run
/// use conclave_client::{FencingToken, Revision, fence::postgres};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (mut db, connection) = tokio_postgres::connect("host=/run/postgresql dbname=shop", tokio_postgres::NoTls).await?;
/// tokio::spawn(connection);
/// let fence = postgres::Fence::new(&db).await?;
///
/// let token = FencingToken::new(0, Revision(7)); // guard.token()
/// let tx = db.transaction().await?;
/// fence.enter(&tx, "orders/42", token).await?; // before the read already
/// let paid: i64 = tx.query_one("SELECT count(*) FROM orders WHERE id = 42", &[]).await?.get(0);
/// if paid == 0 {
///     tx.execute("INSERT INTO orders VALUES (42, 1)", &[]).await?;
/// }
/// tx.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Fence(());

impl Fence {
    /// Makes the table if it is not there; where it is, no right to make any is needed.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn new(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let there: bool = client.query_one("SELECT to_regclass('conclave_fence') IS NOT NULL", &[]).await?.get(0);
        if !there {
            // Sent together, they are one transaction.
            let make = format!(
                "SELECT pg_advisory_xact_lock({MAKING});
                 CREATE TABLE IF NOT EXISTS conclave_fence (resource TEXT PRIMARY KEY, token BIGINT NOT NULL)"
            );
            client.batch_execute(&make).await?;
        }
        Ok(Self(()))
    }

    /// Raises the resource's fence to `token`, or refuses it. Call it first of all in the transaction that then reads or writes.
    ///
    /// Until that transaction ends, others wait here who come for the same resource: so the next holder reads what this one
    /// wrote. If this one stands still, they wait as long as `lock_timeout` says, or until `idle_in_transaction_session_timeout`
    /// ends this one's session; for ever if neither is set. The transaction's isolation should be `READ COMMITTED`, PostgreSQL's
    /// default: a stricter one may have to be repeated (`40001`, serialization failure) when two meet.
    ///
    /// # Errors
    /// [`Error::Stale`] if a larger token was seen; roll back then (dropping the transaction does, once its connection is
    /// polled again).
    pub async fn enter(&self, transaction: &Transaction<'_>, resource: &str, token: FencingToken) -> Result<(), Error> {
        let raised =
            transaction.execute_typed(sql::RAISE, &[(&resource, Type::TEXT), (&token.as_i64(), Type::INT8)]).await?;
        if sql::let_in(raised) {
            return Ok(());
        }
        let seen = self.seen(transaction, resource).await?.unwrap_or_default();
        Err(Stale { resource: resource.to_owned(), token, seen }.into())
    }

    /// The largest token seen, for people.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn seen(
        &self,
        client: &impl GenericClient,
        resource: &str,
    ) -> Result<Option<u64>, tokio_postgres::Error> {
        let row = client.query_typed_opt(sql::SEEN, &[(&resource, Type::TEXT)]).await?;
        let token: Option<i64> = row.map(|row| row.get(0));
        Ok(token.and_then(|token| u64::try_from(token).ok()))
    }
}
