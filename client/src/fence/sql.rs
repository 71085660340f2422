//! What all databases with `INSERT … ON CONFLICT` are told. SQLite and PostgreSQL both take `$1` for a parameter.

use conclave_faults::planted;

/// One statement, so that nobody comes between the comparison and the change; whoever was first keeps others off this row until
/// its transaction ends, also if it was refused.
pub(super) const RAISE: &str = "INSERT INTO conclave_fence (resource, token) VALUES ($1, $2)
     ON CONFLICT (resource) DO UPDATE SET token = excluded.token WHERE excluded.token >= conclave_fence.token";

/// The largest token seen.
pub(super) const SEEN: &str = "SELECT token FROM conclave_fence WHERE resource = $1";

/// Whether so many rows changed by [`RAISE`] let the holder in.
pub(super) fn let_in(raised: u64) -> bool {
    raised == 1 || planted!(FenceAcceptsLower)
}
