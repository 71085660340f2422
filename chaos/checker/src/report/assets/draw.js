// Paints what is in view, and only that: bars while they can be told apart, their density where they cannot.

const pen = canvas.getContext("2d");
const MONO = "11px ui-monospace, 'DejaVu Sans Mono', 'Cascadia Mono', Menlo, Consolas, monospace";
const SANS = "12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif";
// Bars give way to density when some lane has more than one every four pixels.
const CROWDED = 4;
let ink = {};
let hatches = {};
let glyph = 6.6;
let overviewImage = null;
const inView = (row) => firstAbove(row.from, view.to) - firstReaching(row, view.from);

function readInk() {
  const style = getComputedStyle(document.documentElement);
  const named = (name) => style.getPropertyValue(`--${name}`).trim();
  ink = {};
  for (const name of ["page", "card", "ink", "soft", "line", "lane", "bad", "good", "unsure", "fault", "hold",
    "hold-edge", "hold-ink", "leader", "leader-ink", "follower", "candidate", "paused", "down"]) ink[name] = named(name);
  ink.categories = CATEGORIES.map((name) => ({ fill: named(name), edge: named(`${name}-edge`), ink: named(`${name}-ink`) }));
  hatches = {};
  pen.font = MONO;
  glyph = pen.measureText("0000000000").width / 10;
  overviewImage = null;
}

function hatch(colour) {
  return (hatches[colour] ??= (() => {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6;
    const on = tile.getContext("2d");
    on.strokeStyle = colour;
    on.lineWidth = 1.2;
    on.beginPath();
    for (const shift of [-6, 0, 6]) { on.moveTo(shift, 6); on.lineTo(shift + 6, 0); }
    on.stroke();
    return pen.createPattern(tile, "repeat");
  })());
}

function box(x, y, w, h, radius) {
  pen.beginPath();
  if (w > 5) pen.roundRect(x, y, w, h, radius);
  else pen.rect(x, y, w, h);
}

// Cut to the room there is, or left out. Returns whether anything was written.
function write(text, x, y, room, colour, short) {
  let fits = Math.floor(room / glyph);
  if (short !== undefined && text.length > fits) text = short;
  if (text.length > fits) {
    // A number that is cut is another number.
    if (fits < 3 || /^\d+$/.test(text)) return false;
    text = `${text.slice(0, fits - 1)}…`;
  }
  pen.fillStyle = colour;
  // The last argument narrows scripts whose letters are wider than the font's.
  pen.fillText(text, x, y, room);
  return true;
}

function paint() {
  if (!width) return;
  pen.fillStyle = ink.card;
  pen.fillRect(0, 0, width, height);
  const top = stage.scrollTop - RULER;
  pen.save();
  pen.beginPath();
  pen.rect(gutter, RULER, width - gutter, height - RULER);
  pen.clip();
  const visible = lanes.filter((lane) => lane.y + lane.height > stage.scrollTop && lane.y < stage.scrollTop + height);
  visible.forEach((lane) => paintLane(lane, lane.y - top));
  pen.restore();
  paintBands();
  pen.save();
  pen.beginPath();
  pen.rect(gutter, RULER, width - gutter, height - RULER);
  pen.clip();
  pen.font = MONO;
  pen.textBaseline = "middle";
  const clients = visible.filter((lane) => lane.kind === "client");
  const crowded = clients.some((lane) => inView(lane.rows[0]) > (width - gutter) / CROWDED);
  if (crowded) paintDensity(clients, top);
  for (const lane of visible) {
    if (lane.kind === "fault") paintFaults(lane, lane.y - top);
    else if (lane.kind === "server") paintServer(lane, lane.y - top);
    else if (lane.kind === "lock") paintLock(lane, lane.y - top);
    else paintClient(lane, lane.y - top, crowded);
  }
  paintFrames(top);
  pen.restore();
  paintRuler();
  paintGutter(visible, top);
  paintOverview();
  placeNote(top);
}

function paintLane(lane, y) {
  pen.fillStyle = ink.lane;
  pen.fillRect(gutter, y, width - gutter, lane.height - 1);
}

function paintBands() {
  const all = lanes.find((lane) => lane.kind === "fault")?.all;
  if (!all) return;
  let edge = -1;
  for (let i = firstReaching(all, view.from); i < all.count && all.from[i] <= view.to;) {
    const from = Math.max(toX(all.from[i]), gutter), until = Math.min(toX(Math.min(all.until[i], axis.end)), width);
    if (until >= gutter && until > edge) {
      const w = Math.max(until - from, 1.5);
      pen.globalAlpha = 0.09;
      pen.fillStyle = ink.fault;
      pen.fillRect(from, RULER, w, height - RULER);
      pen.globalAlpha = 0.35;
      pen.fillRect(from, RULER, 1, height - RULER);
      if (all.until[i] <= view.to) pen.fillRect(from + w - 1, RULER, 1, height - RULER);
      edge = until;
    }
    pen.globalAlpha = 1;
    // What lies within the same pixel is not drawn again.
    i = Math.max(i + 1, all.until[i] - all.from[i] < 1 / scale() ? firstAbove(all.from, all.from[i] + 0.5 / scale()) : 0);
  }
}

// Calls `each(item, x, right, next)` for what is in view, at most about twice for each pixel; `next` is where the one
// after it begins.
function eachBar(row, each) {
  const pixel = 1 / scale();
  let i = firstReaching(row, view.from);
  while (i < row.count && row.from[i] <= view.to) {
    const x = toX(row.from[i]);
    const right = Math.max(x + 1.5, toX(Math.min(row.until[i], axis.end * 1.05)));
    const next = i + 1;
    if (right >= gutter) each(row.items[i], x, right, next < row.count ? toX(row.from[next]) : Infinity);
    i = next < row.count && row.from[next] < row.from[i] + pixel * 0.5 && row.until[next] < row.from[i] + pixel
      ? firstAbove(row.from, row.from[i] + pixel * 0.5, true, next) : next;
  }
}
const clipped = (x, right) => [Math.max(x, gutter - 6), Math.min(right, width + 6)];

function paintFaults(lane, y) {
  lane.rows.forEach((row, at) => eachBar(row, (fault, x, right) => {
    const [from, until] = clipped(x, right);
    const top = y + at * lane.rowHeight + 2;
    pen.globalAlpha = 0.28;
    box(from, top, Math.max(until - from, 2), 15, 3);
    pen.fillStyle = ink.fault;
    pen.fill();
    pen.globalAlpha = 1;
    pen.fillStyle = ink.fault;
    pen.fillRect(from, top, Math.min(2.5, until - from), 15);
    const { what, target } = data.faults[fault];
    write(target ? `${what} · ${target}` : what, Math.max(from, gutter) + 6, top + 8, until - Math.max(from, gutter) - 9, ink.ink, what);
  }));
}

function paintServer(lane, y) {
  const top = y + 3, h = lane.rowHeight - 6;
  eachBar(lane.rows[0], (at, x, right) => {
    const [state, , , text] = lane.lane.spans[at];
    const [from, until] = clipped(x, right);
    const w = Math.max(until - from, 1.5);
    if (state === "follower" || state === "other") {
      pen.fillStyle = ink.follower;
      pen.fillRect(from, top + h / 2 - 3, w, 6);
    } else if (state === "leader") {
      box(from, top, w, h, 3);
      pen.fillStyle = ink.leader;
      pen.fill();
    } else {
      box(from, top, w, h, 3);
      pen.fillStyle = hatch(state === "candidate" ? ink.candidate : state === "paused" ? ink.paused : ink.down);
      pen.fill();
      pen.strokeStyle = ink[state];
      pen.stroke();
    }
    const label = state === "other" ? text : text ? `${state} · ${text}` : state;
    if (state === "leader") write(label, Math.max(from, gutter) + 6, top + h / 2, until - Math.max(from, gutter) - 9, ink["leader-ink"], state);
    else if (state !== "follower") plaque(label, Math.max(from, gutter) + 4, top + h / 2, until - Math.max(from, gutter) - 8);
  });
  eachBar(lane.points, (at, x) => {
    pen.fillStyle = ink.ink;
    pen.beginPath();
    pen.moveTo(x, top - 1);
    pen.lineTo(x + 4, top + h / 2);
    pen.lineTo(x, top + h + 1);
    pen.lineTo(x - 4, top + h / 2);
    pen.fill();
  });
}

// A label readable on hatching.
function plaque(text, x, y, room) {
  if (room < glyph * 4) return;
  pen.fillStyle = ink.lane;
  pen.fillRect(x, y - 7, Math.min(text.length * glyph + 6, room), 14);
  write(text, x + 3, y, room - 5, ink.ink);
}

function paintLock(lane, y) {
  lane.rows.forEach((row, at) => {
    const top = y + at * lane.rowHeight + 3, h = lane.rowHeight - 5;
    let before = -Infinity;
    eachBar(row, (hold, x, right, next) => {
      const acquire = holds.acquire[hold], release = holds.release[hold], sure = holds.sure[hold];
      if (!sure) right = Math.min(right, x + 150);
      const [from, until] = clipped(x, right);
      // Where it may have been held besides: thin, up to the neighbours.
      const called = Math.max(toX(fromOf(acquire)), before, gutter - 6);
      const returned = sure && release >= 0 ? Math.min(toX(Math.min(untilOf(release), axis.end)), next, width + 6) : until;
      pen.globalAlpha = dimmed(acquire) ? 0.2 : 0.45;
      pen.fillStyle = ink["hold-edge"];
      if (from - called > 2) pen.fillRect(called, top + h / 2 - 1, from - called, 2);
      if (returned - until > 2) pen.fillRect(until, top + h / 2 - 1, returned - until, 2);
      pen.globalAlpha = dimmed(acquire) ? 0.4 : 1;
      const w = Math.max(until - from, 1.5);
      if (sure) paintHold(from, top, w, h, holds.shared[hold]);
      else {
        pen.fillStyle = fading(x, right, ink["hold-edge"], ink.hold);
        pen.fillRect(from, top, w, h);
      }
      if (inConflict(acquire)) {
        pen.strokeStyle = ink.bad;
        pen.lineWidth = acquire === data.refutations[current.refutation].culprit ? 2.5 : 1.5;
        box(from - 1.5, top - 1.5, w + 3, h + 3, 4);
        pen.stroke();
      }
      const token = data.texts[holds.token[hold]], owner = clientName(ops.process[acquire]);
      const start = Math.max(from, gutter);
      write(token ? `token ${token} · ${owner}` : owner, start + 5, top + h / 2 + 0.5, until - start - 8, ink["hold-ink"], token || owner);
      pen.globalAlpha = 1;
      before = until;
    });
  });
}

function paintHold(x, y, w, h, shared) {
  box(x, y, w, h, 3);
  pen.fillStyle = w > 4 ? ink.hold : ink["hold-edge"];
  pen.fill();
  if (w <= 4) return;
  pen.strokeStyle = ink["hold-edge"];
  pen.lineWidth = 1;
  if (shared) pen.setLineDash([3, 2]);
  pen.stroke();
  pen.setLineDash([]);
}

// From its own colour into nothing, for what has no certain end.
function fading(x, right, edge, fill) {
  const fade = pen.createLinearGradient(x, 0, x + Math.max(right - x, 1), 0);
  fade.addColorStop(0, edge);
  fade.addColorStop(0.06, fill);
  fade.addColorStop(1, `${fill}00`);
  return fade;
}

const inConflict = (op) => conflicts[current.refutation]?.has(op) ?? false;

// Of other keys than the one that is in question.
function dimmed(op) {
  const refutation = data.refutations[current.refutation];
  return refutation !== undefined && ops.key[op] !== refutation.key;
}

function paintClient(lane, y, crowded) {
  const row = lane.rows[0], top = y + 3, h = 18;
  if (!crowded) paintBars(row, firstReaching(row, view.from), firstAbove(row.from, view.to), top, h);
  if (!lane.held) return;
  pen.fillStyle = ink["hold-edge"];
  eachBar(lane.held, (hold, x, right) => {
    const [from, until] = clipped(x, right);
    pen.globalAlpha = dimmed(holds.acquire[hold]) ? 0.35 : 1;
    pen.fillRect(from, top + h + 1.5, Math.max(until - from, 1), 2.5);
  });
  pen.globalAlpha = 1;
}

function paintBars(row, first, last, top, h) {
  for (let i = first; i < last; i++) {
    const op = row.items[i], outcome = ops.outcome[op], colours = ink.categories[ops.category[op]];
    const x = toX(row.from[i]);
    let right = toX(Math.min(row.until[i], axis.end * 1.05));
    const open = untilOf(op) === Infinity;
    if (open) right = Math.min(Math.max(right, x + 8), x + 150);
    const [from, until] = clipped(x, Math.max(right, x + 2));
    const w = until - from;
    if (w <= 0) continue;
    pen.globalAlpha = dimmed(op) ? 0.45 : 1;
    if (w < 8 && !open) {
      // Too narrow for corners and dashes: rectangles, which are cheap. Failed ones are lower.
      const low = outcome === FAILED ? h / 2 : 0;
      pen.fillStyle = colours.edge;
      pen.fillRect(from, top + low, w, h - low);
      if (w >= 4) {
        pen.fillStyle = outcome === FAILED ? ink.lane : colours.fill;
        pen.fillRect(from + 1, top + low + 1, w - 2, h - low - 2);
      }
    } else if (open || outcome === UNKNOWN) {
      pen.fillStyle = fading(x, right, colours.edge, colours.fill);
      pen.fillRect(from, top, w, h);
      pen.fillStyle = colours.edge;
      pen.fillRect(from, top, Math.min(2, w), h);
    } else {
      box(from + 0.5, top + 0.5, w - 1, h - 1, 3);
      if (outcome === FAILED) pen.setLineDash([3, 2]);
      else { pen.fillStyle = colours.fill; pen.fill(); }
      pen.strokeStyle = colours.edge;
      pen.lineWidth = 1;
      pen.stroke();
      pen.setLineDash([]);
    }
    if (w > 22) {
      const start = Math.max(from, gutter);
      write(opLabel(op), start + 5, top + h / 2 + 0.5, until - start - 8, outcome === FAILED ? ink.soft : colours.ink, opShortLabel(op));
    }
  }
  pen.globalAlpha = 1;
}

// Where an operation's bar is drawn, on the canvas; null if its lane is not shown.
function barOf(op) {
  const lane = laneOf(op);
  if (!lane || !shown[op]) return null;
  const x = toX(fromOf(op)), y = lane.y - stage.scrollTop + RULER + 3;
  const until = untilOf(op);
  let right = toX(Math.min(until, axis.end * 1.05));
  if (until === Infinity) right = Math.min(right, x + 150);
  return { x, y, w: Math.max(right - x, 3), h: 18 };
}

function paintFrames() {
  data.refutations.forEach((refutation, at) => {
    const chosen = at === current.refutation;
    for (const op of refutation.operations) {
      if (fromOf(op) > view.to) continue;
      const bar = barOf(op);
      if (!bar || bar.x > width + 20 || bar.x + bar.w < gutter - 20) continue;
      const culprit = op === refutation.culprit;
      const [from, until] = clipped(bar.x, bar.x + bar.w);
      pen.globalAlpha = chosen ? 1 : 0.45;
      pen.strokeStyle = ink.bad;
      if (culprit && chosen) {
        pen.lineWidth = 7;
        pen.globalAlpha = 0.22;
        box(from - 3, bar.y - 2.5, until - from + 6, bar.h + 5, 5);
        pen.stroke();
        pen.globalAlpha = 1;
      }
      pen.lineWidth = culprit ? 2.5 : 1.5;
      box(from - 2.5, bar.y - 2, until - from + 5, bar.h + 4, 4.5);
      pen.stroke();
    }
  });
  pen.globalAlpha = 1;
  const selected = current.op >= 0 && barOf(current.op);
  if (selected) {
    pen.strokeStyle = ink.ink;
    pen.lineWidth = 1;
    pen.setLineDash([2, 2]);
    const [from, until] = clipped(selected.x, selected.x + selected.w);
    box(from - 5.5, selected.y - 4.5, until - from + 11, selected.h + 9, 6);
    pen.stroke();
    pen.setLineDash([]);
  }
  const bar = hovered?.kind === "op" && barOf(hovered.item);
  if (bar) {
    pen.strokeStyle = ink.ink;
    pen.lineWidth = 1.5;
    const [from, until] = clipped(bar.x, bar.x + bar.w);
    box(from, bar.y, until - from, bar.h, 3);
    pen.stroke();
  }
}

// The sentence of cause, below the culprit, pointing at it.
function placeNote() {
  const refutation = data.refutations[current.refutation];
  const bar = refutation && barOf(refutation.culprit);
  const centre = bar && bar.x + Math.min(bar.w, 300) / 2;
  const seen = bar && centre > gutter - 4 && bar.x < width && bar.y > RULER - 20;
  note.style.visibility = seen ? "visible" : "hidden";
  if (!seen) {
    // Out of the way, or the stage would scroll as far as it.
    note.style.transform = "none";
    return;
  }
  const lane = laneOf(refutation.culprit), wide = note.offsetWidth;
  const left = Math.min(Math.max(gutter + 8, centre - 40), width - wide - 10);
  note.style.transform = `translate(${Math.round(left)}px, ${Math.round(lane.y + lane.height + RULER + 7)}px)`;
  note.style.setProperty("--arrow", `${Math.round(Math.min(Math.max(centre - left, 14), wide - 14))}px`);
}
