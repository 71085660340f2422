// What is under the pointer, and what is said about it.

const tip = element("tip");

function within(row, x, slack) {
  const at = fromX(x), room = slack / scale();
  let best = -1, nearest = Infinity;
  // From the last that begins before the pointer, back to where nothing reaches it any more.
  for (let i = firstAbove(row.from, at + room) - 1, looked = 0; i >= 0 && looked < 400 && row.reach[i] >= at - room; i--, looked++) {
    const until = Math.min(row.until[i], axis.end * 1.05);
    const away = at < row.from[i] ? row.from[i] - at : at > until ? at - until : 0;
    if (away <= room && away < nearest) { nearest = away; best = row.items[i]; }
    if (nearest === 0) break;
  }
  return best;
}

function under(x, y) {
  if (y < RULER) return null;
  const at = y - RULER + stage.scrollTop;
  const lane = lanes.find((one) => at >= one.y && at < one.y + one.height);
  if (!lane) return null;
  if (x < gutter) return { kind: "label", item: lane, lane };
  if (lane.kind === "server") {
    const point = within(lane.points, x, 5);
    if (point >= 0) return { kind: "point", item: point, lane };
  }
  const row = lane.rows[Math.min(lane.rows.length - 1, Math.floor((at - lane.y) / lane.rowHeight))];
  if (lane.held && at - lane.y > 21) {
    const hold = within(lane.held, x, 2);
    if (hold >= 0) return { kind: "hold", item: hold, lane };
  }
  const item = within(row, x, 4);
  return item < 0 ? null : { kind: { fault: "fault", server: "span", lock: "hold", client: "op" }[lane.kind], item, lane };
}

const stamp = (op, which) => {
  const position = ops.order[which][op];
  if (position === Infinity) return "never, as far as is known";
  return (axes.time ? `${formatTime(ops.time[which][op])}, ` : "") + `event ${position.toLocaleString("en")}`;
};

function details({ kind, item, lane }) {
  if (kind === "label") return { title: lane.label, rows: [["processes", lane.processes?.length > 1 ? `${lane.processes.length}, one after the other` : ""], ["", lane.kind === "client" || lane.kind === "lock" ? "click to see it alone" : `${lane.rows[0].count} in all`]] };
  if (kind === "fault") {
    const fault = data.faults[item];
    const when = (at) => (fault[axis.name][at] === null ? "not ended" : axis === axes.time ? formatTime(fault.time[at]) : `event ${fault.order[at]}`);
    return { title: fault.what, rows: [["target", fault.target], ["from", when(0)], ["until", when(1)]] };
  }
  if (kind === "span") {
    const [state, from, until, text] = lane.lane.spans[item];
    return { title: `${lane.label}: ${state}`, rows: [["", text], ["from", formatTime(from)], ["until", until === null ? "the next, or the end" : formatTime(until)]] };
  }
  if (kind === "point") {
    const [at, text] = lane.lane.points[item];
    return { title: text, rows: [["server", lane.label], ["at", formatTime(at)]] };
  }
  if (kind === "hold") {
    const acquire = holds.acquire[item], release = holds.release[item];
    return {
      title: `${lockName(ops.key[acquire])} held by ${clientName(ops.process[acquire])}`,
      rows: [
        ["token", data.texts[holds.token[item]]],
        ["shared", holds.shared[item] ? "with other readers" : ""],
        ["surely from", stamp(acquire, "until")],
        ["surely until", !holds.sure[item] ? "not known: its session may have ended before" : release < 0 ? "no release seen" : stamp(release, "from")],
        ["perhaps from", stamp(acquire, "from")],
        ["perhaps until", release < 0 ? "" : stamp(release, "until")],
      ],
    };
  }
  const outcome = ["ok", "failed: certainly did not happen", "unknown: may happen at any time after its call, or never"][ops.outcome[item]];
  const refutations = data.refutations.filter((one) => one.operations.includes(item));
  const culprit = refutations.find((one) => one.culprit === item);
  const took = axes.time && ops.time.until[item] !== Infinity ? formatTime(ops.time.until[item] - ops.time.from[item]) : "";
  return {
    title: `${functionName(item)} by ${clientName(ops.process[item])}`,
    bad: culprit ? culprit.cause : refutations.length ? "one of the operations that have no order" : "",
    rows: [
      ["operation", item.toLocaleString("en")],
      ["key", keyName(ops.key[item])],
      ["called with", data.texts[ops.argument[item]]],
      ["returned", data.texts[ops.result[item]]],
      ["outcome", outcome],
      ["called at", stamp(item, "from")],
      ["returned at", stamp(item, "until")],
      ["took", took],
    ],
  };
}

// Texts of the history only ever go in as text nodes.
function fillTip({ title, rows, bad }) {
  const made = (name, text, kind) => {
    const one = document.createElement(name);
    one.textContent = text;
    if (kind) one.className = kind;
    return one;
  };
  const list = document.createElement("dl");
  for (const [name, value] of rows) {
    if (value === "" || value === null || value === undefined) continue;
    list.append(made("dt", name), made("dd", value));
  }
  tip.replaceChildren(made("strong", title), list);
  if (bad) tip.append(made("p", bad, "bad-text"));
}

function hover(x, y) {
  const found = under(x, y);
  const same = found && hovered && found.kind === hovered.kind && found.item === hovered.item && found.lane === hovered.lane;
  if (!same) {
    hovered = found;
    if (found) fillTip(details(found));
    redraw();
  }
  canvas.style.cursor = !found ? "grab" : "pointer";
  tip.hidden = !found;
  if (!found) return;
  const area = stage.getBoundingClientRect();
  const left = Math.min(area.left + x + 14, window.innerWidth - tip.offsetWidth - 8);
  const below = area.top + y + 18, room = window.innerHeight - tip.offsetHeight - 8;
  tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, below > room ? area.top + y - tip.offsetHeight - 14 : below)}px)`;
}
function unhover() {
  tip.hidden = true;
  if (hovered) { hovered = null; redraw(); }
}
