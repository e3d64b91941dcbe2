// Heat maps of plates with row letters and column numbers.
import {changed, cssColor, element, make, onChange, say, state, title, visible} from "./state.js";
import {fit, tip} from "./map.js";
import {choose} from "./well.js";

const LEFT = 22, TOP = 14; // of the labels, CSS pixels
let plates = [];

export const rowLetters = row => (row >= 26 ? "A" : "") + String.fromCharCode(65 + row % 26);

function layout(canvas) {
  const g = state.screen.grid, width = canvas.clientWidth, cell = (width - LEFT) / g.width;
  return {width, cell, height: TOP + cell * g.height};
}

function wellAt(plate, event) {
  const r = plate.canvas.getBoundingClientRect(), {cell} = layout(plate.canvas), g = state.screen.grid;
  const row = Math.floor((event.clientY - r.top - TOP) / cell), col = Math.floor((event.clientX - r.left - LEFT) / cell);
  return plate.wells.find(w => g.rows[w] === row && g.columns[w] === col);
}

function draw(plate) {
  const seen = !state.experiment || plate.experiment === state.experiment;
  plate.box.hidden = !seen;
  if (!seen || !plate.canvas.clientWidth) return;
  const g = state.screen.grid, {width, cell, height} = layout(plate.canvas), pen = fit(plate.canvas, width, height), gap = cell > 8 ? 1 : 0.3;
  pen.fillStyle = cssColor("--empty");
  pen.fillRect(LEFT, TOP, width - LEFT, height - TOP);
  pen.fillStyle = cssColor("--soft");
  pen.font = "10px system-ui, sans-serif"; pen.textAlign = "center"; pen.textBaseline = "middle";
  const every = size => Math.max(1, Math.ceil(size / cell)); // labels that do not touch
  for (let row = 0; row < g.height; row += every(11)) pen.fillText(rowLetters(row), LEFT / 2, TOP + (row + .5) * cell);
  for (let col = 0; col < g.width; col += every(16)) pen.fillText(String(col + 1), LEFT + (col + .5) * cell, TOP / 2);
  for (const well of plate.wells) {
    const faded = !visible(well) || (state.selection.size && !state.selection.has(well));
    const x = LEFT + g.columns[well] * cell, y = TOP + g.rows[well] * cell;
    pen.fillStyle = faded ? cssColor("--faded") : state.colors[well];
    pen.fillRect(x + gap, y + gap, cell - 2 * gap, cell - 2 * gap);
    if (well === state.chosen || well === state.cursor) {
      pen.strokeStyle = cssColor(well === state.chosen ? "--chosen" : "--mark"); pen.lineWidth = 2;
      pen.strokeRect(x, y, cell, cell);
    }
  }
}

function step(plate, key) {
  const g = state.screen.grid, from = plate.wells.includes(state.cursor) ? state.cursor : plate.wells.includes(state.chosen) ? state.chosen : null;
  if (from === null) return plate.wells[0];
  const [u, v] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[key];
  for (let n = 1; n < Math.max(g.width, g.height); n++) { // over gaps in the plate
    const next = plate.wells.find(w => g.columns[w] === g.columns[from] + n * u && g.rows[w] === g.rows[from] + n * v);
    if (next !== undefined) return next;
  }
  return from;
}

export function startPlates() {
  const c = state.screen.columns["Metadata_Plate"], e = state.screen.columns["Metadata_Experiment"], known = new Map();
  for (let well = 0; well < state.screen.wells; well++) {
    const key = (e ? e.codes[well] : 0) + "/" + c.codes[well];
    if (!known.has(key)) known.set(key, {name: c.values[c.codes[well]], experiment: e ? e.values[e.codes[well]] : "", wells: []});
    known.get(key).wells.push(well);
  }
  plates = [...known.values()];
  element("plates").replaceChildren(...plates.map(plate => {
    const label = [plate.experiment, plate.name].filter(Boolean).join(" / ");
    plate.canvas = make("canvas", {tabIndex: 0});
    plate.canvas.setAttribute("role", "application");
    plate.canvas.setAttribute("aria-label", `Plate ${label}, ${plate.wells.length} wells. Arrow keys move between wells, Enter chooses.`);
    plate.canvas.addEventListener("click", event => { const well = wellAt(plate, event); if (well !== undefined) choose(well); });
    plate.canvas.addEventListener("mousemove", event => tip(event, wellAt(plate, event)));
    plate.canvas.addEventListener("mouseleave", () => tip(null));
    plate.canvas.addEventListener("keydown", event => {
      if (event.key.startsWith("Arrow")) { state.cursor = step(plate, event.key); say(title(state.cursor)); }
      else if (event.key === "Enter" && state.cursor !== null) choose(state.cursor);
      else return;
      event.preventDefault();
      changed();
    });
    plate.box = make("div", {className: "plate"}, make("div", {className: "small", textContent: label}), plate.canvas);
    return plate.box;
  }));
  onChange(() => plates.forEach(draw));
}
