// What is drawn in which row, under the filter and on the axis in use.

const byName = new Intl.Collator("en", { numeric: true }).compare;
const hiddenFunctions = new Set();
let filterText = "";
let lanes = [];
let laneOfProcess = new Map();
let lanesHeight = 0;
// Operations that pass the filter, and those among them whose function is not switched off.
let matching = new Uint8Array(ops.count), shown = new Uint8Array(ops.count);

// Things with a beginning and an end, in order, to be found by where they reach.
function spans(items, fromOf, untilOf) {
  const from = Float64Array.from(items, fromOf);
  if (from.some((value, i) => i > 0 && value < from[i - 1])) {
    items = Array.from(items).sort((a, b) => fromOf(a) - fromOf(b));
    from.set(items.map(fromOf));
  }
  const until = Float64Array.from(items, untilOf);
  const reach = Float64Array.from(until);
  for (let i = 1; i < reach.length; i++) reach[i] = Math.max(reach[i], reach[i - 1]);
  return { items, from, until, reach, count: items.length };
}
const firstReaching = (row, x) => firstAbove(row.reach, x, true);

// What has no certain end reaches as far as the next in its row.
function upToNext(row, endless) {
  for (let i = 0; i < row.count; i++) {
    if (endless(row.items[i])) row.until[i] = i + 1 < row.count ? row.from[i + 1] : Infinity;
    row.reach[i] = Math.max(row.until[i], i ? row.reach[i - 1] : 0);
  }
}

// Words of the filter; quotes hold together what has spaces or colons.
function filterTerms(text) {
  const terms = [];
  for (const [, field, quoted, plain] of text.matchAll(/(?:(key|process|f|function):)?(?:"((?:[^"\\]|\\.)*)"|(\S+))/g)) {
    const word = quoted === undefined ? plain : quoted.replace(/\\(.)/g, "$1");
    terms.push({ field: field === "function" ? "f" : field, word });
  }
  return terms;
}
function filterTerm(field, word) {
  return `${field}:${/^[^\s"\\:]+$/.test(word) ? word : `"${word.replace(/["\\]/g, "\\$&")}"`}`;
}

// Words must all match; of those for the same field, one must.
function applyFilter() {
  const exact = { key: [data.keys, ops.key], process: [data.processes, ops.process], f: [data.functions, ops.function] };
  const wanted = new Map(), tests = [];
  for (const { field, word } of filterTerms(filterText)) {
    if (field) {
      if (!wanted.has(field)) wanted.set(field, new Set());
      wanted.get(field).add(word);
      continue;
    }
    const lower = word.toLowerCase();
    const within = (names) => Uint8Array.from(names, (name) => (name ?? "").toLowerCase().includes(lower));
    const key = within(data.keys), f = within(data.functions), value = within(data.texts);
    const process = within(data.processes.map((_, at) => clientName(at)));
    tests.push((op) => key[ops.key[op]] || f[ops.function[op]] || process[ops.process[op]]
      || value[ops.argument[op]] || value[ops.result[op]]);
  }
  for (const [field, words] of wanted) {
    const [names, column] = exact[field], is = Uint8Array.from(names, (name) => words.has(name));
    tests.push((op) => is[column[op]]);
  }
  const off = Uint8Array.from(data.functions, (name) => hiddenFunctions.has(name));
  for (let op = 0; op < ops.count; op++) {
    matching[op] = tests.every((test) => test(op)) ? 1 : 0;
    shown[op] = matching[op] && !off[ops.function[op]] ? 1 : 0;
  }
}

// Rows such that nothing in a row overlaps; the last one takes what is left.
function pack(items, fromOf, untilOf, most) {
  const rows = [], ends = [];
  for (const item of items) {
    let row = ends.findIndex((end) => end <= fromOf(item));
    if (row < 0) row = Math.min(ends.length, most - 1);
    (rows[row] ??= []).push(item);
    ends[row] = Math.max(ends[row] ?? -Infinity, untilOf(item));
  }
  return rows.map((row) => spans(row, fromOf, untilOf));
}

const holdFrom = (hold) => untilOf(holds.acquire[hold]);
// One with a token may be lost unnoticed: without an end that was ok it is sure at its beginning only.
const holdUntil = (hold) => !holds.sure[hold] ? holdFrom(hold)
  : holds.release[hold] < 0 ? Infinity : Math.max(holdFrom(hold), fromOf(holds.release[hold]));

function faultLanes() {
  const from = (fault) => data.faults[fault][axis.name][0], until = (fault) => data.faults[fault][axis.name][1] ?? Infinity;
  const all = data.faults.map((_, at) => at).sort((a, b) => from(a) - from(b));
  const rows = pack(all, from, until, 6);
  return rows.length ? [{ kind: "fault", label: "faults", rows, rowHeight: 19, all: spans(all, from, until) }] : [];
}

function serverLanes() {
  return data.lanes.map((lane) => {
    const all = lane.spans.map((_, at) => at);
    const from = (at) => moment(lane.spans[at][1]);
    const until = (at) => Math.min(
      lane.spans[at][2] === null ? Infinity : moment(lane.spans[at][2]),
      at + 1 < all.length ? from(at + 1) : Infinity);
    const at = (point) => moment(lane.points[point][0]);
    return {
      kind: "server", label: lane.name, lane, rows: [spans(all, from, until)], rowHeight: 22,
      points: spans(lane.points.map((_, point) => point), at, at),
    };
  });
}

function lockLanes() {
  const byKey = new Map();
  for (let hold = 0; hold < holds.count; hold++) {
    if (!matching[holds.acquire[hold]]) continue;
    const key = ops.key[holds.acquire[hold]];
    if (!byKey.has(key)) byKey.set(key, []);
    byKey.get(key).push(hold);
  }
  const made = [...byKey].map(([key, all]) => {
    all.sort((a, b) => holdFrom(a) - holdFrom(b));
    const rows = pack(all, holdFrom, holdUntil, 12);
    for (const row of rows) upToNext(row, (hold) => !holds.sure[hold]);
    return { kind: "lock", label: lockName(key), key, rows, rowHeight: 20 };
  });
  const bad = offendingSets().keys;
  return made.sort((a, b) => bad.has(b.key) - bad.has(a.key) || byName(a.label, b.label));
}

// Operations that pass the filter, in order, and those that took a lock, for each process that has any.
function byProcess() {
  const counts = new Uint32Array(data.processes.length);
  for (let op = 0; op < ops.count; op++) counts[ops.process[op]] += shown[op];
  const clients = Array.from(counts, (count, process) => ({ processes: [process], items: new Uint32Array(count), held: [] }));
  counts.fill(0);
  for (let op = 0; op < ops.count; op++) {
    const process = ops.process[op];
    if (shown[op]) clients[process].items[counts[process]++] = op;
  }
  for (let hold = 0; hold < holds.count; hold++) {
    const acquire = holds.acquire[hold];
    if (matching[acquire]) clients[ops.process[acquire]].held.push(hold);
  }
  return clients.filter((client) => client.items.length || client.held.length);
}

// Processes that crash are followed by new ones: where there are many, those that do not overlap share a lane.
const MANY_PROCESSES = 40;
function share(clients) {
  const lives = clients.map((client) => {
    let from = Infinity, until = -Infinity;
    for (const op of [...client.items, ...client.held.map((hold) => holds.release[hold]).filter((op) => op >= 0)]) {
      from = Math.min(from, fromOf(op));
      until = Math.max(until, untilOf(op) === Infinity ? fromOf(op) : untilOf(op));
    }
    return { client, from, until };
  }).sort((a, b) => a.from - b.from);
  const shared = [], ends = [];
  for (const { client, from, until } of lives) {
    let at = ends.findIndex((end) => end < from);
    if (at < 0) at = shared.length;
    (shared[at] ??= []).push(client);
    ends[at] = until;
  }
  return shared.map((all) => ({
    processes: all.flatMap((one) => one.processes),
    items: Uint32Array.from(all.flatMap((one) => [...one.items])),
    held: all.flatMap((one) => one.held),
  }));
}

function clientLanes() {
  let clients = byProcess();
  if (clients.length > MANY_PROCESSES) clients = share(clients);
  const made = clients.map(({ processes, items, held }) => {
    const row = spans(items, fromOf, untilOf);
    upToNext(row, (op) => untilOf(op) === Infinity);
    row.sums = CATEGORIES.map((_, category) => {
      const sums = new Uint32Array(row.count + 1);
      for (let i = 0; i < row.count; i++) sums[i + 1] = sums[i] + (ops.category[row.items[i]] === category);
      return sums;
    });
    row.unknown = new Uint32Array(row.count + 1);
    for (let i = 0; i < row.count; i++) row.unknown[i + 1] = row.unknown[i] + (ops.outcome[row.items[i]] === UNKNOWN);
    const names = processes.map((process) => data.processes[process]);
    return {
      kind: "client", label: names.length > 1 ? `clients ${names.slice(0, 20).join(", ")}` : clientName(processes[0]), processes,
      rows: [row], rowHeight: held.length ? 28 : 24, held: held.length ? spans(held, holdFrom, holdUntil) : null,
    };
  });
  const bad = offendingSets().processes, is = (lane) => lane.processes.some((process) => bad.has(process));
  return made.sort((a, b) => is(b) - is(a) || byName(a.label, b.label));
}

// Keys and processes that come first: those of the refutation in view, or of all if none is.
function offendingSets() {
  const keys = new Set(), processes = new Set();
  const all = current.refutation < 0 ? data.refutations : [data.refutations[current.refutation]];
  for (const refutation of all) {
    for (const op of refutation.operations) {
      keys.add(ops.key[op]);
      processes.add(ops.process[op]);
    }
  }
  return { keys, processes };
}

function buildLanes() {
  lanes = [...faultLanes(), ...serverLanes(), ...lockLanes(), ...clientLanes()];
  laneOfProcess = new Map(lanes.filter((lane) => lane.kind === "client")
    .flatMap((lane) => lane.processes.map((process) => [process, lane])));
  placeLanes();
}

// Room below the culprit's lane for the sentence of cause, so that it covers nothing.
function placeLanes() {
  const culprit = current.refutation < 0 ? -1 : data.refutations[current.refutation].culprit;
  const below = culprit >= 0 && shown[culprit] ? laneOf(culprit) : null;
  let y = 4, kind = null;
  for (const lane of lanes) {
    if (kind !== null && lane.kind !== kind) y += 9;
    kind = lane.kind;
    lane.y = y;
    lane.height = lane.rows.length * lane.rowHeight + (lane.kind === "lock" ? 4 : 2);
    lane.gap = lane === below ? noteHeight + 12 : 0;
    y += lane.height + lane.gap;
  }
  lanesHeight = y + 10;
}
