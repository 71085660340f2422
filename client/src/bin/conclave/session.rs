//! `conclave session`: who is alive, and ending one.

use conclave_client::{Client, SessionId, SessionInfo};
use serde::Serialize;

use crate::{args, exit::Failure, output::Out, units};

#[derive(Serialize)]
struct SessionJson {
    id: u64,
    name: String,
    ttl_ms: u64,
    remaining_ms: u64,
    opened: String,
    opened_revision: u64,
    owned: u64,
    /// At most 100 of them.
    owns: Vec<String>,
}

impl From<SessionInfo> for SessionJson {
    fn from(info: SessionInfo) -> Self {
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            id: info.id.0,
            name: info.name,
            ttl_ms: ms(info.ttl),
            remaining_ms: ms(info.remaining),
            opened: units::utc(info.opened_ms),
            opened_revision: info.opened_revision.0,
            owned: info.owned,
            owns: info.owns,
        }
    }
}

#[derive(Serialize)]
struct MessageJson {
    message: String,
}

fn no_session(id: SessionId) -> Failure {
    Failure::not_found(format!("no session {id} is open")).with_hint("`conclave session ls` lists those that are")
}

/// Shows or ends sessions.
pub async fn run(client: &Client, args: &args::Session, out: &mut Out) -> Result<(), Failure> {
    let admin = client.admin();
    match args {
        args::Session::Ls => {
            let sessions = admin.sessions().await?;
            if out.is_json() {
                return out.json(&sessions.into_iter().map(SessionJson::from).collect::<Vec<_>>());
            }
            let rows = sessions
                .into_iter()
                .map(|info| {
                    vec![
                        info.id.to_string(),
                        info.name,
                        units::span(info.ttl),
                        units::span(info.remaining),
                        units::utc(info.opened_ms),
                        info.owned.to_string(),
                    ]
                })
                .collect();
            out.table(&[">SESSION", "NAME", ">TTL", ">LEFT", "OPENED", ">OWNS"], rows)
        }
        args::Session::Show { id } => {
            let id = SessionId(id.0);
            let Some(info) = admin.session(id).await? else { return Err(no_session(id)) };
            if out.is_json() {
                return out.json(&SessionJson::from(info));
            }
            let row = |name: &str, value: String| vec![name.to_owned(), value];
            let hidden = info.owned.saturating_sub(info.owns.len() as u64);
            let mut rows = vec![
                row("session", id.to_string()),
                row("name", info.name),
                row("ttl", units::span(info.ttl)),
                row("left", units::span(info.remaining)),
                row("opened", format!("{} at revision {}", units::utc(info.opened_ms), info.opened_revision)),
                row("owns", units::count(info.owned)),
            ];
            rows.extend(info.owns.into_iter().map(|path| row("", path)));
            if hidden > 0 {
                rows.push(row("", format!("… and {hidden} more")));
            }
            out.table(&["FIELD", "VALUE"], rows)
        }
        args::Session::Kill { id } => {
            let id = SessionId(id.0);
            let message = admin.kill_session(id).await.map_err(|error| match error.kind() {
                conclave_client::ErrorKind::SessionLost => no_session(id),
                _ => error.into(),
            })?;
            if out.is_json() { out.json(&MessageJson { message }) } else { out.line(message) }
        }
    }
}
