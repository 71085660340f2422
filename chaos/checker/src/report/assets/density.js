// Lanes with more operations than pixels: how many of each kind begin in each column, stacked.
// Painted as pixels of one image, which is many times cheaper than as many rectangles.

// Rows of the image for a lane; the uppermost ones tell of unknown outcomes.
const ROWS = 42, MARK_ROWS = 6;
const strips = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

// 0xaabbggrr, as pixels lie in memory.
function pixelOf(hex, alpha) {
  const full = hex.length === 4 ? hex.replace(/[^#]/g, "$&$&") : hex;
  const part = (at) => parseInt(full.slice(at, at + 2), 16);
  return ((alpha << 24) | (part(5) << 16) | (part(3) << 8) | part(1)) >>> 0;
}

// A lane is full where there are two and a half times as many as on average. Columns stay where they are in the
// history when it is panned, so that nothing shimmers.
function paintDensity(clients, top) {
  const most = clients.reduce((count, lane) => Math.max(count, lane.rows[0].count), 1);
  const wide = Math.max(2, Math.min(12, Math.ceil(axis.end * scale() / most * 1.5))), unit = wide / scale();
  const origin = Math.floor(view.from / unit) * unit;
  const columns = Math.ceil((width - gutter) / wide) + 2;
  const image = new ImageData(columns, ROWS * clients.length), pixels = new Uint32Array(image.data.buffer);
  const colours = ink.categories.map((colours) => pixelOf(colours.edge, 205)), unsure = pixelOf(ink.unsure, 255);
  clients.forEach((lane, at) => fillStrip(lane.rows[0], pixels, at * ROWS * columns, columns, origin, unit, colours, unsure));
  if (strips.canvas.width !== columns || strips.canvas.height !== image.height) {
    strips.canvas.width = columns;
    strips.canvas.height = image.height;
  }
  strips.putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  const x = toX(origin);
  clients.forEach((lane, at) => pen.drawImage(strips.canvas, 0, at * ROWS, columns, ROWS, x, lane.y - top, columns * wide, 21));
}

function fillStrip(row, pixels, start, columns, origin, unit, colours, unsure) {
  const average = Math.max(1, row.count * unit / axis.end), tall = ROWS - MARK_ROWS;
  const present = colours.map((_, category) => category).filter((category) => row.sums[category][row.count] > 0);
  let first = firstAbove(row.from, origin, true);
  for (let column = 0; column < columns; column++) {
    const after = firstAbove(row.from, origin + (column + 1) * unit, true, first);
    const all = after - first;
    let at = start + (ROWS - 1) * columns + column;
    if (all > 0) {
      const full = tall * Math.min(1, 0.3 + 0.7 * all / (2.5 * average));
      let reached = 0;
      for (const category of present) {
        const sums = row.sums[category];
        reached += full * (sums[after] - sums[first]) / all;
        for (const end = start + (ROWS - Math.round(reached)) * columns; at >= end; at -= columns) pixels[at] = colours[category];
      }
      if (row.unknown[after] > row.unknown[first]) for (let mark = 0; mark < MARK_ROWS; mark++) pixels[start + mark * columns + column] = unsure;
    } else if (first > 0 && row.reach[first - 1] >= origin + column * unit) {
      // Nothing begins here, but something is under way.
      const colour = colours[ops.category[row.items[first - 1]]];
      for (let line = 0; line < MARK_ROWS; line++, at -= columns) pixels[at] = colour;
    }
    first = after;
  }
}
