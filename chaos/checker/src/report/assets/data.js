// What the page was given: columns of numbers, unpacked. See columns.rs for how they are packed.

const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);

function unpack(text, count, { signed = false, running = false } = {}) {
  const bytes = atob(text);
  const numbers = new Float64Array(count);
  for (let i = 0, at = 0, sum = 0; i < count && at < bytes.length; i++) {
    let number = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes.charCodeAt(at++);
      number += (byte & 127) * scale;
      if (byte < 128) break;
    }
    if (signed) number = number % 2 ? -(number + 1) / 2 : number / 2;
    numbers[i] = running ? (sum += number) : number;
  }
  return numbers;
}

const OK = 0, FAILED = 1, UNKNOWN = 2;
const CATEGORIES = ["read", "write", "swap", "take", "give"];
const CATEGORY_OF = {
  read: 0, get: 0, observe: 0, list: 0,
  write: 1, put: 1, append: 1, enqueue: 1, add: 1, create: 1,
  cas: 2, txn: 2, delete: 2, dequeue: 2,
  acquire: 3, try_acquire: 3, acquire_shared: 3, try_acquire_shared: 3, campaign: 3, open: 3, renew: 3,
  release: 4, resign: 4, close: 4, expire: 4,
};

const ops = (() => {
  const packed = data.operations, count = data.count;
  const column = (name, how) => unpack(packed[name], count, how);
  const called = column("called", { signed: true, running: true });
  const after = column("returned");
  const columns = {
    count,
    process: Uint32Array.from(column("process")),
    key: Uint32Array.from(column("key")),
    function: Uint8Array.from(column("function")),
    outcome: Uint8Array.from(column("outcome")),
    argument: Uint32Array.from(column("argument")),
    result: Uint32Array.from(column("result")),
  };
  columns.category = columns.function.map((f) => CATEGORY_OF[data.functions[f]] ?? 1);
  const open = (i) => after[i] === 0;
  columns.order = { from: called, until: called.map((from, i) => (open(i) ? Infinity : from + after[i])) };
  if (data.timed) {
    const from = column("called_ns", { signed: true, running: true });
    const took = column("returned_ns", { signed: true });
    columns.time = { from, until: from.map((ns, i) => (open(i) ? Infinity : Math.max(ns, ns + took[i]))) };
  }
  return columns;
})();

const holds = (() => {
  const packed = data.holds, count = packed.count;
  return {
    count,
    acquire: Uint32Array.from(unpack(packed.acquire, count, { signed: true, running: true })),
    release: Int32Array.from(unpack(packed.release, count), (number) => number - 1),
    token: Uint32Array.from(unpack(packed.token, count)),
    shared: Uint8Array.from(unpack(packed.shared, count)),
    sure: Uint8Array.from(unpack(packed.sure, count)),
  };
})();

// By time if there are times, else by the order of events. `end` is where the history ends.
const axes = {
  order: { name: "order", end: Math.max(1, data.events) },
  time: data.timed && { name: "time", end: lastMoment() },
};
let axis = axes.time || axes.order;

function lastMoment() {
  let end = 0;
  const until = (value) => { if (value !== null && value !== Infinity && value > end) end = value; };
  for (let i = 0; i < ops.count; i++) {
    until(ops.time.from[i]);
    until(ops.time.until[i]);
  }
  for (const fault of data.faults) fault.time.forEach(until);
  for (const lane of data.lanes) {
    lane.spans.forEach((span) => { until(span[1]); until(span[2]); });
    lane.points.forEach((point) => until(point[0]));
  }
  return Math.max(1, end);
}

// Time of each event; never falls. Turns moments of one axis into moments of the other.
const eventTimes = (() => {
  if (!data.timed) return null;
  const times = new Float64Array(data.events + 1);
  for (let i = 0; i < ops.count; i++) {
    times[ops.order.from[i]] = ops.time.from[i];
    if (ops.order.until[i] !== Infinity) times[ops.order.until[i]] = ops.time.until[i];
  }
  for (let i = 1; i < times.length; i++) times[i] = Math.max(times[i], times[i - 1]);
  return times;
})();

// First index whose value is above (or, with `orEqual`, not below) x in a sorted array.
function firstAbove(sorted, x, orEqual = false, low = 0, high = sorted.length) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (orEqual ? sorted[middle] < x : sorted[middle] <= x) low = middle + 1;
    else high = middle;
  }
  return low;
}

function orderOfTime(ns) {
  const after = firstAbove(eventTimes, ns, true);
  if (after === 0) return 0;
  if (after >= eventTimes.length) return data.events;
  const before = eventTimes[after - 1];
  return after - 1 + (ns - before) / Math.max(1, eventTimes[after] - before);
}

function timeOfOrder(position) {
  const at = Math.min(Math.max(0, Math.floor(position)), eventTimes.length - 1);
  const next = eventTimes[Math.min(at + 1, eventTimes.length - 1)];
  return eventTimes[at] + (next - eventTimes[at]) * (position - at);
}

// A moment given in nanoseconds, on the axis in use.
const moment = (ns) => (axis === axes.time ? ns : orderOfTime(ns));

const fromOf = (op) => ops[axis.name].from[op];
const untilOf = (op) => ops[axis.name].until[op];

const clientName = (process) => {
  const label = data.processes[process] ?? "?";
  return /^\d+$/.test(label) ? `client ${label}` : label;
};
const keyName = (key) => data.keys[key] ?? null;
const lockName = (key) => (/^\d+$/.test(keyName(key) ?? "") ? `key ${keyName(key)}` : keyName(key) ?? "lock");
const functionName = (op) => data.functions[ops.function[op]];

function opLabel(op) {
  const argument = data.texts[ops.argument[op]], result = data.texts[ops.result[op]];
  const shows = result && (result !== argument || ops.category[op] === 0);
  const value = (argument ? ` ${argument}` : "") + (shows ? ` → ${result}` : "");
  return functionName(op) + value + ["", " ✗", " ?"][ops.outcome[op]];
}
function opShortLabel(op) {
  return (data.texts[ops.result[op]] || data.texts[ops.argument[op]] || functionName(op)) + ["", " ✗", " ?"][ops.outcome[op]];
}

function trimmed(number, digits) {
  return number.toFixed(digits).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}
function formatTime(ns, step = 0) {
  const size = Math.max(Math.abs(ns), step);
  const [unit, name] = size >= 1e9 ? [1e9, "s"] : size >= 1e6 ? [1e6, "ms"] : size >= 1e3 ? [1e3, "µs"] : [1, "ns"];
  const digits = step ? Math.max(0, Math.ceil(Math.log10(unit / step) - 1e-9)) : 3;
  return `${step ? (ns / unit).toFixed(digits) : trimmed(ns / unit, digits)} ${name}`;
}
