// Around the lanes: the ruler above, the names on the left, the overview of the whole history.

function tickStep(span, most) {
  const rough = span / Math.max(1, most), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((times) => times * power >= rough) * power;
  return Math.max(1, step);
}

function paintRuler() {
  pen.fillStyle = ink.card;
  pen.fillRect(0, 0, width, RULER);
  pen.strokeStyle = ink.line;
  pen.lineWidth = 1;
  const step = tickStep(view.to - view.from, (width - gutter) / 115);
  pen.font = MONO;
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  pen.beginPath();
  const ticks = [];
  for (let at = Math.ceil(Math.max(0, view.from) / step) * step; at <= Math.min(view.to, axis.end); at += step) ticks.push(at);
  const largest = ticks.length ? ticks[ticks.length - 1] : 0;
  for (const at of ticks) {
    const x = Math.round(toX(at)) + 0.5;
    if (x < gutter) continue;
    pen.moveTo(x, RULER - 7);
    pen.lineTo(x, RULER);
    const text = axis === axes.time ? formatTick(at, step, largest) : Math.round(at).toLocaleString("en");
    if (x + 5 + text.length * glyph < width) {
      pen.fillStyle = ink.soft;
      pen.fillText(text, x + 4, 11);
    }
  }
  pen.moveTo(0, RULER - 0.5);
  pen.lineTo(width, RULER - 0.5);
  pen.stroke();
}

function formatTick(ns, step, largest) {
  const [unit, name] = largest >= 1e9 ? [1e9, "s"] : largest >= 1e6 ? [1e6, "ms"] : largest >= 1e3 ? [1e3, "µs"] : [1, "ns"];
  return `${(ns / unit).toFixed(Math.max(0, Math.ceil(Math.log10(unit / step) - 1e-9)))} ${name}`;
}

function paintGutter(visible, top) {
  pen.fillStyle = ink.card;
  pen.fillRect(0, RULER, gutter, height - RULER);
  pen.save();
  pen.beginPath();
  pen.rect(0, RULER, gutter, height - RULER);
  pen.clip();
  pen.font = SANS;
  pen.textBaseline = "middle";
  const bad = offendingSets();
  for (const lane of visible) {
    const y = lane.y - top, mark = current.refutation >= 0 && (lane.kind === "client" ? lane.processes.some((process) => bad.processes.has(process)) : lane.kind === "lock" && bad.keys.has(lane.key));
    if (mark) {
      pen.fillStyle = ink.bad;
      pen.beginPath();
      pen.arc(9, y + 12, 2.5, 0, 7);
      pen.fill();
    }
    pen.fillStyle = lane.kind === "client" ? ink.ink : ink.soft;
    const room = gutter - 24;
    let label = lane.label;
    if (pen.measureText(label).width > room) {
      while (label.length > 1 && pen.measureText(`${label}…`).width > room) label = label.slice(0, -1);
      label += "…";
    }
    pen.fillText(label, 17, y + 12);
    lane.cut = label !== lane.label;
  }
  pen.restore();
  pen.strokeStyle = ink.line;
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(gutter - 0.5, 0);
  pen.lineTo(gutter - 0.5, height);
  pen.stroke();
}

// The whole history: how much goes on, faults, offending operations; and the part in view.
function paintOverview() {
  const on = overview.getContext("2d"), w = overview.clientWidth, h = overview.clientHeight;
  const room = w - gutter, x = (value) => gutter + value / axis.end * room;
  if (!overviewImage) {
    on.fillStyle = ink.card;
    on.fillRect(0, 0, w, h);
    on.fillStyle = ink.lane;
    on.fillRect(gutter, 3, room, h - 6);
    const columns = Math.max(1, Math.ceil(room / 2)), counts = new Uint32Array(columns);
    for (let op = 0; op < ops.count; op++) {
      if (shown[op]) counts[Math.min(columns - 1, Math.max(0, Math.floor(fromOf(op) / axis.end * columns)))]++;
    }
    const most = counts.reduce((a, b) => Math.max(a, b), 1);
    on.fillStyle = ink.soft;
    on.globalAlpha = 0.55;
    counts.forEach((count, column) => {
      if (count) { const tall = (h - 10) * (0.15 + 0.85 * count / most); on.fillRect(gutter + column * 2, h - 3 - tall, 2, tall); }
    });
    on.fillStyle = ink.fault;
    for (const fault of data.faults) {
      const [from, until] = fault[axis.name];
      const left = x(from), right = until === null ? w : x(until);
      on.globalAlpha = 0.3;
      on.fillRect(left, 3, Math.max(right - left, 1), h - 6);
    }
    on.globalAlpha = 1;
    on.fillStyle = ink.bad;
    for (const op of offendingOps) on.fillRect(x(fromOf(op)) - 1, 2, 2.5, h - 4);
    on.font = SANS;
    on.textBaseline = "middle";
    on.fillStyle = ink.soft;
    on.fillText(gutter > 100 ? "whole history" : "all", 17, h / 2);
    overviewImage = document.createElement("canvas");
    overviewImage.width = overview.width;
    overviewImage.height = overview.height;
    overviewImage.getContext("2d").drawImage(overview, 0, 0);
  } else {
    on.save();
    on.setTransform(1, 0, 0, 1, 0, 0);
    on.drawImage(overviewImage, 0, 0);
    on.restore();
  }
  const left = Math.max(gutter, x(view.from)), right = Math.min(w, x(view.to));
  on.fillStyle = ink.card;
  on.globalAlpha = 0.55;
  on.fillRect(gutter, 0, left - gutter, h);
  on.fillRect(right, 0, w - right, h);
  on.globalAlpha = 1;
  on.strokeStyle = ink.ink;
  on.lineWidth = 1.5;
  on.beginPath();
  on.roundRect(Math.min(left, w - 5) + 0.75, 1.5, Math.max(right - left - 1.5, 3), h - 3, 3);
  on.stroke();
}
