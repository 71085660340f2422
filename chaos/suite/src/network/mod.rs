//! Packets between hosts of a place that do not arrive, or late.
//!
//! Whatever it is, it is done where packets arrive: a host that does not hear another has a table of nftables of its own
//! for that, which nobody else knows of. So one direction is not the other, several can be there at once, and each ends
//! by itself.

pub mod delay;
pub mod rules;

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, ensure};

use self::rules::{COUNTER, Edge, Treatment, by_hearer, table};
use crate::place::{Host, NotAvailable, Place};

/// Whether packets can be treated in this place.
///
/// # Errors
/// What is missing, for this kind of fault.
pub fn available(place: &dyn Place, what: &str) -> Result<(), NotAvailable> {
    let lacks = |why: String| NotAvailable { what: what.into(), why };
    let network = place.network(Host(0)).map_err(|lacking| lacks(lacking.why))?;
    nft(&network, "add table inet trial; delete table inet trial")
        .map(drop)
        .map_err(|error| lacks(format!("{error:#}; Debian's package is nftables")))
}

/// Some edges on which packets are treated otherwise, until [`Impairment::end`].
#[derive(Debug)]
pub struct Impairment {
    /// Its own in this process, so in every namespace of ours.
    table: String,
    hearers: Vec<Host>,
}

impl Impairment {
    /// From now on packets on these edges are treated so.
    ///
    /// # Errors
    /// The tool's; nothing is changed then.
    pub fn begin(place: &dyn Place, edges: &[Edge], treatment: Treatment) -> anyhow::Result<Self> {
        static TABLES: AtomicUsize = AtomicUsize::new(0);
        ensure!(!edges.is_empty(), "nobody to be cut off from");
        let mut begun =
            Self { table: format!("chaos_{}", TABLES.fetch_add(1, Ordering::Relaxed)), hearers: Vec::new() };
        for (hearer, sources) in by_hearer(edges) {
            let sources: Vec<_> = sources.into_iter().map(|host| place.address(host)).collect();
            let network = place.network(hearer)?;
            if let Err(error) = nft(&network, &table(&begun.table, &sources, treatment)) {
                begun.end(place)?;
                return Err(error);
            }
            begun.hearers.push(hearer);
        }
        Ok(begun)
    }

    /// How many packets it has met so far, and where.
    ///
    /// # Errors
    /// If it is no longer there.
    pub fn met(&self, place: &dyn Place) -> anyhow::Result<BTreeMap<Host, u64>> {
        let met = |hearer: &Host| {
            let listed = nft(&place.network(*hearer)?, &format!("list counter inet {} {COUNTER}", self.table))?;
            let mut words = listed.split_whitespace().skip_while(|word| *word != "packets");
            let packets = words.nth(1).and_then(|number| number.parse().ok());
            Ok((*hearer, packets.with_context(|| format!("no counter in {listed:?}"))?))
        };
        self.hearers.iter().map(met).collect()
    }

    /// Ends it, and looks whether it is ended.
    ///
    /// # Errors
    /// The tool's, or if its rules are still there.
    pub fn end(&self, place: &dyn Place) -> anyhow::Result<()> {
        for hearer in &self.hearers {
            let network = place.network(*hearer)?;
            // One that is not there any more is as good as ended.
            nft(&network, &format!("add table inet {0}; delete table inet {0}", self.table))?;
            let tables = nft(&network, "list tables")?;
            let still = tables.split_whitespace().any(|word| word == self.table);
            ensure!(!still, "packets are still dropped or held on host {}: {tables}", hearer.0);
        }
        Ok(())
    }
}

/// Runs a script of nftables in a network, and returns what it says.
fn nft(network: &Path, script: &str) -> anyhow::Result<String> {
    let mut tool = Command::new("nft");
    tool.args(["-f", "-"]);
    feed(network, &tool, script)
}

/// Runs a tool in a network, gives it this to read, and returns what it says.
fn feed(network: &Path, tool: &Command, script: &str) -> anyhow::Result<String> {
    let name = tool.get_program().to_string_lossy().into_owned();
    let mut net = std::ffi::OsString::from("--net=");
    net.push(network);
    let mut child = Command::new("nsenter")
        .arg(net)
        .arg(tool.get_program())
        .args(tool.get_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("nsenter (Debian's package is util-linux)")?;
    // One that does not listen says why.
    let fed = child.stdin.take().expect("it is piped").write_all(script.as_bytes());
    let output = child.wait_with_output().with_context(|| name.clone())?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    fed.with_context(|| format!("{name} does not listen"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
