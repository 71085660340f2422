// Which part of the history is in view, and what stands out in it.

const RULER = 24;
const stage = element("stage"), canvas = element("canvas"), overview = element("overview"), note = element("note");
const view = { from: 0, to: 1 };
const current = { refutation: data.refutations.length ? 0 : -1, op: -1 };
let hovered = null;
let noteHeight = 0;
let width = 0, height = 0, gutter = 120;

const scale = () => (width - gutter) / (view.to - view.from);
const toX = (value) => gutter + (value - view.from) * scale();
const fromX = (x) => view.from + (x - gutter) / scale();
const narrowest = () => (axis === axes.time ? 20 : 2);

function show(from, to) {
  const margin = axis.end * 0.03;
  const span = Math.min(Math.max(to - from, narrowest()), axis.end + 2 * margin);
  const middle = (from + to) / 2;
  view.from = Math.min(Math.max(middle - span / 2, -margin), axis.end + margin - span);
  view.to = view.from + span;
  redraw();
}
const showAll = () => show(-axis.end * 0.012, axis.end * 1.012);
const pan = (share) => { const by = (view.to - view.from) * share; show(view.from + by, view.to + by); };
function zoom(factor, x = gutter + (width - gutter) / 2) {
  const at = fromX(x), span = Math.min(Math.max((view.to - view.from) * factor, narrowest()), axis.end * 1.06);
  const share = (at - view.from) / (view.to - view.from);
  show(at - span * share, at + span * (1 - share));
}

// The interval that a set of operations takes, with room around it.
function showOps(list) {
  let from = Infinity, to = -Infinity;
  for (const op of list) {
    from = Math.min(from, fromOf(op));
    to = Math.max(to, untilOf(op) === Infinity ? fromOf(op) : untilOf(op));
  }
  const room = Math.max((to - from) * 0.22, narrowest());
  show(from - room, to + room);
}

const laneOf = (op) => laneOfProcess.get(ops.process[op]);
function reveal(op) {
  const lane = laneOf(op);
  if (!lane) return;
  const top = lane.y, bottom = lane.y + lane.height + lane.gap;
  if (top < stage.scrollTop) stage.scrollTop = Math.max(0, top - 8);
  else if (bottom > stage.scrollTop + height - RULER) stage.scrollTop = bottom - (height - RULER) + 8;
}

// All offending operations, refutation by refutation.
const offending = data.refutations.flatMap((refutation, at) => refutation.operations.map((op) => ({ refutation: at, op })));
const offendingOps = new Set(offending.map(({ op }) => op));
const conflicts = data.refutations.map((refutation) => new Set(refutation.operations));

function showRefutation(at) {
  current.refutation = at;
  const refutation = data.refutations[at];
  current.op = refutation.culprit;
  clearFilterIfHidden(refutation.operations);
  writeNote();
  buildLanes();
  size();
  showOps(refutation.operations);
  reveal(refutation.culprit);
  tellSelected();
}

function goTo(refutation, op) {
  if (current.refutation !== refutation) showRefutation(refutation);
  clearFilterIfHidden([op]);
  current.op = op;
  const until = untilOf(op) === Infinity ? fromOf(op) : untilOf(op);
  const span = view.to - view.from;
  // Moves only as far as it must, so that the neighbourhood stays.
  if (fromOf(op) < view.from + span * 0.02 || until > view.to - span * 0.02) {
    const middle = (fromOf(op) + until) / 2, half = Math.max(span, (until - fromOf(op)) * 1.3) / 2;
    show(middle - half, middle + half);
  }
  reveal(op);
  redraw();
  tellSelected();
}

function step(by) {
  if (!offending.length) return;
  const at = offending.findIndex((one) => one.refutation === current.refutation && one.op === current.op);
  const next = offending[(at + by + offending.length) % offending.length];
  goTo(next.refutation, next.op);
}

function clearFilterIfHidden(list) {
  if (list.every((op) => shown[op])) return;
  hiddenFunctions.clear();
  element("filter").value = "";
  setFilter("");
}

function setFilter(text) {
  tellChips();
  filterText = text;
  applyFilter();
  buildLanes();
  size();
  tellShown();
  redraw();
}

function setAxis(next) {
  if (!next || next === axis) return;
  const convert = next === axes.order ? orderOfTime : timeOfOrder;
  const [from, to] = [convert(Math.max(0, view.from)), convert(Math.min(axis.end, view.to))];
  axis = next;
  element("axis").setAttribute("aria-pressed", String(axis === axes.order));
  buildLanes();
  size();
  show(from, to);
}

function writeNote() {
  const refutation = data.refutations[current.refutation];
  note.hidden = !refutation;
  if (refutation) note.firstElementChild.textContent = refutation.cause;
}

// Fits the canvases to the page. Widths are in CSS pixels throughout.
function size() {
  width = stage.clientWidth;
  gutter = width < 620 ? 78 : 132;
  note.style.maxWidth = `${Math.min(460, width - gutter - 24)}px`;
  noteHeight = note.hidden ? 0 : note.offsetHeight;
  placeLanes();
  element("extent").style.height = `${lanesHeight + RULER}px`;
  height = stage.clientHeight;
  const ratio = window.devicePixelRatio || 1;
  for (const [one, w, h] of [[canvas, width, height], [overview, overview.clientWidth, overview.clientHeight]]) {
    one.width = Math.round(w * ratio);
    one.height = Math.round(h * ratio);
    one.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  }
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  overviewImage = null;
}

const frames = [];
let due = false;
function redraw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    const began = performance.now();
    paint();
    frames.push(performance.now() - began);
    if (frames.length > 240) frames.shift();
  });
}
