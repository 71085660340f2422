//! Transactions over lists to which nothing is appended twice: strict serializability in linear time.
//!
//! Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations", VLDB 2020, section 4: lists
//! tell their own history, so reads give the order of appends, and from it follows which transaction must come before which:
//!
//! * *ww*: its append comes next after the other's;
//! * *wr*: it read the other's append;
//! * *rw*: it read a list in which the other's append was still missing;
//! * *rt*: it returned before the other was called.
//!
//! Appends that nobody read come after all that were read, in any order. So all that can be demanded is in the graph,
//! and any order of transactions that respects it explains every read: there is one exactly if there is no cycle.
//! A transaction of unknown outcome happened if one of its appends was read; else it is left out.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use crate::{
    Outcome, Refutation, Value, Verdict,
    check::Part,
    model::list_append::{Micro, known, micros},
    shrink::name,
};

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug)]
enum Because<'a> {
    /// Both appended to this key, one after the other.
    Appended(&'a Value),
    /// The second read what the first appended.
    ReadIt(&'a Value),
    /// The first read this key without what the second appended.
    MissedIt(&'a Value),
    /// The first returned before the second was called.
    Earlier,
}

/// A node: a transaction, a moment in real time, or the end of what was read of a list.
type Node = usize;

struct Graph<'a> {
    edges: Vec<Vec<(Node, Because<'a>)>>,
    /// Nodes below are transactions.
    transactions: usize,
}

impl<'a> Graph<'a> {
    fn edge(&mut self, from: Node, to: Node, because: Because<'a>) {
        if from != to {
            self.edges[from].push((to, because));
        }
    }

    fn node(&mut self) -> Node {
        self.edges.push(Vec::new());
        self.edges.len() - 1
    }
}

/// What is known of one list.
#[derive(Default)]
struct List<'a> {
    /// The longest that was read, and by whom.
    longest: Option<(&'a [Value], u32)>,
    /// Who appended each value: index into the transactions, and which part of it.
    appended: BTreeMap<&'a Value, (usize, usize)>,
    /// Transactions and the length of the list that they found, their own appends taken off.
    found: Vec<(usize, usize)>,
}

struct Transaction<'a> {
    at: u32,
    micros: Vec<Micro<'a>>,
    called: u32,
    returned: u32,
    certain: bool,
}

/// The verdict; `None` if a value was appended twice to a list, so that reads do not tell who did.
pub(crate) fn verdict<'a>(part: &Part<'a>) -> Option<Verdict> {
    let mut transactions: Vec<Transaction<'a>> = Vec::new();
    for (at, operation) in part.operations() {
        // A failed one counts only for being read, which it must not.
        let micros = micros(known(operation)).ok()?;
        let certain = operation.outcome == Outcome::Ok;
        transactions.push(Transaction { at, micros, called: operation.called, returned: operation.returned, certain });
    }
    let failed = |at: usize| part.history.operations[transactions[at].at as usize].outcome == Outcome::Fail;
    let named = |at: usize| {
        let operation = &part.history.operations[transactions[at].at as usize];
        name(part, operation)
    };
    let bad = |mut operations: Vec<usize>, culprit: usize, cause: String| {
        operations.sort_unstable();
        operations.dedup();
        let operations = operations.iter().map(|at| transactions[*at].at).collect();
        let culprit = transactions[culprit].at;
        Some(Verdict::NotLinearizable(Box::new(Refutation { key: part.key, operations, culprit, cause })))
    };

    let mut lists: BTreeMap<&'a Value, List<'a>> = BTreeMap::new();
    for (at, transaction) in transactions.iter().enumerate() {
        for (index, micro) in transaction.micros.iter().enumerate() {
            if let Micro::Append(key, value) = micro
                && lists.entry(*key).or_default().appended.insert(*value, (at, index)).is_some()
            {
                return None;
            }
        }
    }
    // What each transaction found: its own appends are the end of what it reads later.
    for (at, transaction) in transactions.iter().enumerate().filter(|(_, transaction)| transaction.certain) {
        let mut own: HashMap<&Value, Vec<&Value>> = HashMap::new();
        for micro in &transaction.micros {
            match micro {
                Micro::Append(key, value) => own.entry(*key).or_default().push(*value),
                Micro::Read(_, None) => {}
                Micro::Read(key, Some(read)) => {
                    let own = own.get(*key).map_or(&[][..], |own| own);
                    let (before, after) = read.split_at(read.len().saturating_sub(own.len()));
                    if !after.iter().eq(own.iter().copied()) {
                        let cause = format!("{} does not read its own appends to {key}", named(at));
                        return bad(vec![at], at, cause);
                    }
                    let list = lists.entry(*key).or_default();
                    list.found.push((at, before.len()));
                    let (longest, by) = list.longest.unwrap_or((&[], at as u32));
                    let common = longest.len().min(before.len());
                    if longest[..common] != before[..common] {
                        let by = by as usize;
                        let cause = format!("{} and {} read {key} in two orders", named(by), named(at));
                        return bad(vec![by, at], at, cause);
                    }
                    if before.len() >= longest.len() {
                        list.longest = Some((before, at as u32));
                    }
                }
            }
        }
    }

    let mut happened: Vec<bool> = transactions.iter().map(|transaction| transaction.certain).collect();
    for (key, list) in &lists {
        let (longest, by) = list.longest.unwrap_or((&[], 0));
        let mut seen = HashSet::new();
        for value in longest {
            let by = by as usize;
            match list.appended.get(value) {
                None => {
                    return bad(vec![by], by, format!("{} read {value} in {key}, which nobody appended", named(by)));
                }
                Some((writer, _)) if failed(*writer) => {
                    let cause = format!("{} read {value} in {key}, whose append failed: {}", named(by), named(*writer));
                    return bad(vec![by, *writer], by, cause);
                }
                Some((writer, _)) => happened[*writer] = true,
            }
            if !seen.insert(value) {
                return bad(vec![by], by, format!("{} read {value} in {key} twice", named(by)));
            }
        }
    }

    let count = transactions.len();
    let mut graph: Graph<'a> = Graph { edges: vec![Vec::new(); count], transactions: count };
    for (&key, list) in &lists {
        let longest = list.longest.map_or(&[][..], |(longest, _)| longest);
        let writes: Vec<(usize, usize)> = longest.iter().map(|value| list.appended[value]).collect();
        if let Some(pair) = writes.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].1 > pair[1].1) {
            let by = list.longest.map_or(0, |(_, by)| by as usize);
            let cause = format!("{} read {key} with the appends of {} in another order", named(by), named(pair[0].0));
            return bad(vec![by, pair[0].0], by, cause);
        }
        let writers: Vec<usize> = writes.iter().map(|(writer, _)| *writer).collect();
        for pair in writers.windows(2) {
            graph.edge(pair[0], pair[1], Because::Appended(key));
        }
        let read: HashSet<&Value> = longest.iter().collect();
        let unread = list.appended.iter().filter(|(value, (by, _))| happened[*by] && !read.contains(**value));
        let unread: Vec<usize> = unread.map(|(_, (by, _))| *by).collect();
        let late: HashSet<usize> = unread.iter().copied().collect();
        // All that nobody read comes after this node, but nothing comes after itself: who would takes edges of its own.
        let tail = graph.node();
        for writer in &unread {
            graph.edge(tail, *writer, Because::MissedIt(key));
        }
        let before_all_unread = |graph: &mut Graph<'a>, node: usize, because: Because<'a>| {
            if late.contains(&node) {
                unread.iter().for_each(|writer| graph.edge(node, *writer, because));
            } else {
                graph.edge(node, tail, because);
            }
        };
        if let Some(last) = writers.last() {
            before_all_unread(&mut graph, *last, Because::Appended(key));
        }
        for (reader, length) in &list.found {
            if let Some(last) = length.checked_sub(1) {
                graph.edge(writers[last], *reader, Because::ReadIt(key));
            }
            match writers.get(*length) {
                Some(next) => graph.edge(*reader, *next, Because::MissedIt(key)),
                None => before_all_unread(&mut graph, *reader, Because::MissedIt(key)),
            }
        }
    }
    real_time(&mut graph, &transactions, &happened);

    let Some(cycle) = cycle(&graph) else { return Some(Verdict::Linearizable) };
    let members: Vec<usize> = cycle.iter().map(|(at, _)| *at).collect();
    let culprit = *members.iter().max_by_key(|at| transactions[**at].called).expect("a cycle has members");
    let steps: Vec<String> = cycle
        .iter()
        .map(|(at, because)| match because {
            Because::Appended(key) => format!("{} appended to {key} before the next", named(*at)),
            Because::ReadIt(key) => format!("what {} appended to {key} was read by the next", named(*at)),
            Because::MissedIt(key) => format!("{} read {key} before the next appended to it", named(*at)),
            Because::Earlier => format!("{} returned before the next was called", named(*at)),
        })
        .collect();
    // Without the longest read of a list nothing is known of the order of its appends.
    let readers = cycle.iter().filter_map(|(_, because)| match because {
        Because::Appended(key) | Because::MissedIt(key) => lists[*key].longest.map(|(_, by)| by as usize),
        Because::ReadIt(_) | Because::Earlier => None,
    });
    let shown = members.iter().copied().chain(readers).collect();
    bad(shown, culprit, format!("each had to come before the next, in a circle: {}", steps.join("; ")))
}

/// Edges in real time by way of moments: a moment for each return, each before the following one.
fn real_time<'a>(graph: &mut Graph<'a>, transactions: &[Transaction<'_>], happened: &[bool]) {
    let mut events: Vec<(u32, usize, bool)> = Vec::new();
    for (at, transaction) in transactions.iter().enumerate().filter(|(at, _)| happened[*at]) {
        events.push((transaction.called, at, false));
        if transaction.certain {
            events.push((transaction.returned, at, true));
        }
    }
    events.sort_unstable();
    let mut now = None;
    for (_, at, returns) in events {
        if returns {
            let moment = graph.node();
            graph.edge(at, moment, Because::Earlier);
            if let Some(before) = now {
                graph.edge(before, moment, Because::Earlier);
            }
            now = Some(moment);
        } else if let Some(now) = now {
            graph.edge(now, at, Because::Earlier);
        }
    }
}

/// A short cycle: its transactions in order, with the reason for each step to the next.
fn cycle<'a>(graph: &Graph<'a>) -> Option<Vec<(usize, Because<'a>)>> {
    let component = smallest_component(graph)?;
    let members: HashSet<Node> = component.iter().copied().collect();
    let starts = component.iter().filter(|node| **node < graph.transactions).take(64);
    let shortest = starts.filter_map(|start| around(graph, *start, &members)).min_by_key(Vec::len)?;
    // Moments and ends of lists are no transactions: the reason for reaching them is that for going on.
    Some(shortest.into_iter().filter(|(node, _)| *node < graph.transactions).collect())
}

/// The shortest way from a node back to it.
fn around<'a>(graph: &Graph<'a>, start: Node, members: &HashSet<Node>) -> Option<Vec<(Node, Because<'a>)>> {
    let mut came: HashMap<Node, (Node, Because<'a>)> = HashMap::new();
    // Nodes that are no transactions cost nothing.
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for (to, because) in &graph.edges[node] {
            if *to == start {
                let mut way = vec![(node, *because)];
                let mut at = node;
                while at != start {
                    let (from, because) = came[&at];
                    way.push((from, because));
                    at = from;
                }
                way.reverse();
                return Some(way);
            }
            if members.contains(to) && !came.contains_key(to) {
                came.insert(*to, (node, *because));
                if *to < graph.transactions { queue.push_back(*to) } else { queue.push_front(*to) }
            }
        }
    }
    None
}

/// The smallest strongly connected component with more than one node: Tarjan's algorithm (1972), without recursion.
fn smallest_component(graph: &Graph<'_>) -> Option<Vec<Node>> {
    const NEW: u32 = u32::MAX;
    let count = graph.edges.len();
    let (mut number, mut low) = (vec![NEW; count], vec![0; count]);
    let mut on_stack = vec![false; count];
    let (mut stack, mut next) = (Vec::new(), 0);
    let mut smallest: Option<Vec<Node>> = None;
    for root in 0..count {
        if number[root] != NEW {
            continue;
        }
        let mut path = vec![(root, 0)];
        while let Some((node, edge)) = path.last_mut() {
            let node = *node;
            if *edge == 0 && number[node] == NEW {
                (number[node], low[node]) = (next, next);
                next += 1;
                stack.push(node);
                on_stack[node] = true;
            }
            if let Some((to, _)) = graph.edges[node].get(*edge) {
                *edge += 1;
                if number[*to] == NEW {
                    path.push((*to, 0));
                } else if on_stack[*to] {
                    low[node] = low[node].min(number[*to]);
                }
                continue;
            }
            path.pop();
            if let Some((parent, _)) = path.last() {
                low[*parent] = low[*parent].min(low[node]);
            }
            if low[node] == number[node] {
                let from = stack.iter().rposition(|other| *other == node).expect("it was pushed");
                let component = stack.split_off(from);
                component.iter().for_each(|node| on_stack[*node] = false);
                if component.len() > 1 && smallest.as_ref().is_none_or(|least| component.len() < least.len()) {
                    smallest = Some(component);
                }
            }
        }
    }
    smallest
}
