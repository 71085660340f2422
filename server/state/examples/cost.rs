//! What applying costs: nanoseconds of CPU per command, records included, in batches as a loaded server applies them.
//!
//! `cargo run --release -p conclave-state --example cost`

use std::time::Instant;

use conclave_proto::{NodePath, RequestNumber, SessionId, Term};
use conclave_state::{By, Command, Entry, Kind, Machine, Op, Outcome, RequestId, Txn};

const BATCH: u64 = 64;
const SESSIONS: u64 = 128;

/// Nanoseconds this thread has been on a CPU: other work on the machine does not count. (Linux.)
fn cpu_ns() -> u128 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds first")
}

struct Bench {
    machine: Machine,
    numbers: Vec<u64>,
    bytes_written: u64,
}

impl Bench {
    fn apply(&mut self, command: Command) -> Outcome {
        let index = self.machine.applied().next();
        let request = RequestId { server: 1, run: 1, count: index.0 };
        self.machine.apply(index, Term(1), Some(Entry { request, at_ms: 1_700_000_000_000, command })).outcome
    }

    /// One operation by the `i`th session in turn.
    fn op(&mut self, i: u64, op: Op) -> Outcome {
        let client = usize::try_from(i % SESSIONS).expect("small");
        self.numbers[client] += 1;
        let number = self.numbers[client];
        let by = By {
            session: SessionId(client as u64 + 1),
            run: 0,
            number: RequestNumber(number),
            acknowledged: RequestNumber(number - 1),
        };
        self.apply(Command::Txn { by: Some(by), txn: Txn { then: vec![op], ..Txn::default() } })
    }

    fn run(&mut self, name: &str, count: u64, op: impl Fn(u64) -> Op) {
        let (mut store_ns, mut records, before) = (0, 0, self.bytes_written);
        let start = cpu_ns();
        for i in 0..count {
            let outcome = self.op(i, op(i));
            assert!(matches!(outcome, Outcome::Txn(_)), "{outcome:?}");
            if i % BATCH == BATCH - 1 {
                let start = cpu_ns();
                let writes = self.machine.take_writes();
                records += writes.len();
                self.bytes_written +=
                    writes.iter().map(|(k, v)| (k.len() + v.as_ref().map_or(0, Vec::len)) as u64).sum::<u64>();
                store_ns += cpu_ns() - start;
            }
        }
        let ns = (cpu_ns() - start) / u128::from(count);
        let store_ns = store_ns / u128::from(count);
        println!(
            "{name:32} {ns:6} ns ({store_ns} of them records)  {:4} bytes, {:.2} records each",
            (self.bytes_written - before) / count,
            records as f64 / count as f64,
        );
    }
}

fn path(text: &str) -> NodePath {
    NodePath::parse(text).expect("a path")
}

fn main() {
    let mut bench = Bench { machine: Machine::new(), numbers: vec![0; SESSIONS as usize], bytes_written: 0 };
    for _ in 0..SESSIONS {
        bench.apply(Command::OpenSession { secret: [0; 16], run: 0, ttl_ms: 10_000, name: "cost".into() });
    }
    let data = bytes::Bytes::from(vec![7; 256]);
    let keys: Vec<NodePath> = (0..100_000).map(|i| path(&format!("/bench/key-{i:06}"))).collect();
    let locks: Vec<NodePath> = (0..SESSIONS).map(|i| path(&format!("/locks/{i}/lock-"))).collect();
    let key = |i: u64| keys[(i * 7_919 % 100_000) as usize].clone();

    let put = |i| Op::Put { path: key(i), data: data.clone(), create_parents: true };
    bench.run("put, creating", 100_000, put);
    bench.run("put, 100,000 keys", 400_000, put);
    bench.run("put, one key", 200_000, |_| Op::Put {
        path: keys[0].clone(),
        data: data.clone(),
        create_parents: false,
    });
    bench.run("get in a transaction", 200_000, |i| Op::Get { path: key(i) });
    let acquire = |i: u64| Op::Create {
        path: locks[(i % SESSIONS) as usize].clone(),
        data: bytes::Bytes::new(),
        kind: Kind::Ephemeral,
        sequential: true,
        create_parents: Some(Kind::Container),
    };
    bench.run("create ephemeral sequential", 100_000, acquire);
    // Each session acquired in turn, so the number is the turn.
    bench.run("delete", 100_000, |i| Op::Delete {
        path: locks[(i % SESSIONS) as usize].with_sequence(i / SESSIONS).expect("a path"),
        recursive: false,
    });
    let counts = bench.machine.counts();
    let start = Instant::now();
    let hash = bench.machine.hash();
    println!("hash {hash} in {} ns; {counts:?}", start.elapsed().as_nanos());
}
