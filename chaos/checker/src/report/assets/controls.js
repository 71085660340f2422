// Pointer, wheel, fingers, keys and buttons.

function tellShown() {
  const count = shown.reduce((sum, one) => sum + one, 0);
  const all = ops.count.toLocaleString("en");
  element("shown").textContent = count === ops.count ? `${all} operations` : `${count.toLocaleString("en")} of ${all}`;
}
function tellSelected() {
  if (current.op < 0) return;
  const { title, rows, bad } = details({ kind: "op", item: current.op });
  element("selected").textContent = [title, ...rows.filter(([, value]) => value).map(([name, value]) => `${name} ${value}`), bad].join(", ");
  for (const row of document.querySelectorAll("tr[data-op]")) {
    row.classList.toggle("current", Number(row.dataset.op) === current.op && Number(row.dataset.refutation) === current.refutation);
  }
}

// Swatches of what is in this history; functions double as switches.
function buildLegend() {
  const counts = new Map();
  for (let op = 0; op < ops.count; op++) counts.set(ops.function[op], (counts.get(ops.function[op]) ?? 0) + 1);
  for (const [at, count] of [...counts].sort((a, b) => a[0] - b[0])) {
    const name = data.functions[at], button = document.createElement("button");
    button.type = "button";
    button.className = `chip ${CATEGORIES[CATEGORY_OF[name] ?? 1]}`;
    button.setAttribute("aria-pressed", "true");
    button.title = `${count.toLocaleString("en")} operations; click to hide or show them`;
    button.textContent = name;
    button.addEventListener("click", () => {
      if (!hiddenFunctions.delete(name)) hiddenFunctions.add(name);
      setFilter(filterText);
    });
    button.dataset.function = name;
    element("functions").append(button);
  }
  const kinds = [["ok", "ok"], ["failed", "failed"], ["unknown", "unknown: may take effect later"]];
  if (holds.count) kinds.push(["held", "held, surely"], ["maybe", "held, perhaps"]);
  if (data.faults.length) kinds.push(["fault", "fault"]);
  if (data.refutations.length) kinds.push(["culprit", "has no place"], ["offending", "in conflict with it"]);
  const states = new Set(data.lanes.flatMap((lane) => lane.spans.map((span) => span[0])));
  for (const state of ["leader", "follower", "candidate", "paused", "down"]) if (states.has(state)) kinds.push([`state ${state}`, state]);
  for (const [kind, text] of kinds) {
    const item = document.createElement("span"), swatch = document.createElement("i");
    swatch.className = `swatch ${kind}`;
    item.append(swatch, text);
    element("legend").append(item);
  }
  const terms = [...data.keys.filter((key) => key !== null).map((key) => filterTerm("key", key)),
    ...data.processes.map((process) => filterTerm("process", process)),
    ...[...counts.keys()].map((at) => filterTerm("f", data.functions[at]))];
  for (const value of terms.slice(0, 500)) {
    const option = document.createElement("option");
    option.value = value;
    element("suggestions").append(option);
  }
}
function tellChips() {
  for (const chip of document.querySelectorAll(".chip")) chip.setAttribute("aria-pressed", String(!hiddenFunctions.has(chip.dataset.function)));
}

const place = (event) => { const area = canvas.getBoundingClientRect(); return [event.clientX - area.left, event.clientY - area.top]; };

stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  unhover();
  const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
  const across = event.shiftKey ? event.deltaX + event.deltaY : Math.abs(event.deltaX) > Math.abs(event.deltaY) ? event.deltaX : 0;
  if (across) pan(across * unit / (width - gutter));
  else zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY * unit * (event.ctrlKey ? 0.01 : 0.0022)))), place(event)[0]);
}, { passive: false });
stage.addEventListener("scroll", () => { unhover(); redraw(); });

// One finger or the mouse drags, two fingers pinch.
const pointers = new Map();
let dragged = 0;
canvas.addEventListener("pointerdown", (event) => {
  if (event.button > 0) return;
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, place(event));
  dragged = 0;
  stage.focus({ preventScroll: true });
});
canvas.addEventListener("pointermove", (event) => {
  const [x, y] = place(event), before = pointers.get(event.pointerId);
  if (!before) { hover(x, y); return; }
  unhover();
  dragged += Math.abs(x - before[0]) + Math.abs(y - before[1]);
  if (pointers.size === 2) {
    const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    const was = Math.abs(before[0] - other[0]), is = Math.abs(x - other[0]);
    if (was > 8 && is > 8) zoom(was / is, (x + other[0]) / 2);
    pan(((before[0] - x) / 2) / (width - gutter));
  } else if (dragged > 3) {
    canvas.style.cursor = "grabbing";
    pan((before[0] - x) / (width - gutter));
    if (event.pointerType === "mouse") stage.scrollTop += before[1] - y;
  }
  pointers.set(event.pointerId, [x, y]);
});
function lift(event) {
  if (!pointers.delete(event.pointerId) || dragged > 3 || event.type === "pointercancel") return;
  const [x, y] = place(event), found = under(x, y);
  if (!found) return;
  if (found.kind === "label") isolate(found.lane);
  else if (found.kind === "op") { selectOp(found.item); if (event.pointerType !== "mouse") hover(x, y); }
  else if (event.pointerType !== "mouse") hover(x, y);
}
canvas.addEventListener("pointerup", lift);
canvas.addEventListener("pointercancel", lift);
canvas.addEventListener("pointerleave", unhover);
canvas.addEventListener("dblclick", (event) => {
  const found = under(...place(event));
  if (found?.kind === "op") showOps([found.item]);
  else zoom(0.5, place(event)[0]);
});

function selectOp(op) {
  const one = offending.find((candidate) => candidate.op === op);
  if (one) goTo(one.refutation, op);
  else { current.op = op; redraw(); tellSelected(); }
}
// A lane alone; again, and all are back.
function isolate(lane) {
  const term = lane.kind === "client" ? lane.processes.slice(0, 200).map((process) => filterTerm("process", data.processes[process])).join(" ")
    : lane.kind === "lock" && keyName(lane.key) !== null ? filterTerm("key", keyName(lane.key)) : null;
  if (term === null) return;
  const input = element("filter");
  input.value = input.value === term ? "" : term;
  setFilter(input.value);
}

function throughOverview(event) {
  if (!(event.buttons & 1)) return;
  const area = overview.getBoundingClientRect();
  const at = (event.clientX - area.left - gutter) / (area.width - gutter) * axis.end, half = (view.to - view.from) / 2;
  show(at - half, at + half);
}
overview.addEventListener("pointerdown", (event) => { overview.setPointerCapture(event.pointerId); throughOverview(event); });
overview.addEventListener("pointermove", throughOverview);

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
function tellTheme() {
  element("theme").textContent = isDark() ? "Light" : "Dark";
  readInk();
  redraw();
}
function flipTheme() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  tellTheme();
}
dark.addEventListener("change", tellTheme);

const help = element("help");
const keys = {
  ArrowLeft: (event) => pan(event.shiftKey ? -0.95 : -0.15),
  ArrowRight: (event) => pan(event.shiftKey ? 0.95 : 0.15),
  "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), _: () => zoom(1 / 0.6),
  0: showAll, n: () => step(1), p: () => step(-1), d: flipTheme,
  t: () => setAxis(axis === axes.order ? axes.time : axes.order),
  "/": () => { element("filter").focus(); element("filter").select(); },
  "?": () => help.showModal(),
  Escape: () => { element("filter").value = ""; hiddenFunctions.clear(); setFilter(""); },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  if (event.target instanceof HTMLInputElement) {
    if (event.key === "Escape") { keys.Escape(); stage.focus(); }
    else if (event.key === "Enter") stage.focus();
    return;
  }
  const along = event.key === "ArrowLeft" || event.key === "ArrowRight";
  // A table that can be scrolled keeps its own arrows.
  if (along && event.target !== stage && event.target.closest?.(".scroll, code")) return;
  const action = keys[event.key];
  if (!action) return;
  event.preventDefault();
  action(event);
});

const on = (id, action) => element(id)?.addEventListener("click", action);
on("theme", flipTheme);
on("help-button", () => help.showModal());
on("previous", () => step(-1));
on("next", () => step(1));
on("in", () => zoom(0.6));
on("out", () => zoom(1 / 0.6));
on("all", showAll);
on("axis", keys.t);
on("copy", async () => {
  const button = element("copy");
  try {
    await navigator.clipboard.writeText(data.replay);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(element("replay"));
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});
let waiting = 0;
element("filter").addEventListener("input", (event) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => setFilter(event.target.value), ops.count > 20000 ? 150 : 0);
});
for (const button of document.querySelectorAll(".goto")) {
  button.addEventListener("click", () => {
    goTo(Number(button.dataset.refutation), Number(button.dataset.op));
    element("stage").scrollIntoView({ block: "center" });
    stage.focus({ preventScroll: true });
  });
}
// At once, not in the next frame: a canvas that changes its size is empty until it is painted.
new ResizeObserver(() => { size(); paint(); }).observe(stage);

element("jumps").hidden = !offending.length;
element("axis").hidden = !axes.time;
buildLegend();
readInk();
applyFilter();
if (current.refutation >= 0) showRefutation(0);
else { writeNote(); buildLanes(); size(); showAll(); }
tellShown();
tellTheme();

// For tests and for people with a console: what the page shows, as values.
window.conclaveReport = {
  get framed() { return current.refutation < 0 ? [] : data.refutations[current.refutation].operations; },
  get culprit() { return current.refutation < 0 ? null : data.refutations[current.refutation].culprit; },
  get selected() { return current.op; },
  get view() { return { axis: axis.name, ...view, end: axis.end }; },
  get shown() { return shown.reduce((sum, one) => sum + one, 0); },
  get lanes() { return lanes.map(({ kind, label }) => ({ kind, label })); },
  get frames() { return [...frames]; },
  bar(op) {
    const bar = barOf(op), area = canvas.getBoundingClientRect();
    return bar && { x: bar.x + area.left, y: bar.y + area.top, w: bar.w, h: bar.h };
  },
  ready: true,
};
