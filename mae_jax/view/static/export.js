// Export of the active map as PNG or SVG, and of the selected (or visible) wells as CSV.
import {element, numbers, say, short, state, visible} from "./state.js";
import {ramp} from "./legend.js";
import {pointSize} from "./map.js";

const SIDE = 720, EDGE = 24, LEGEND = 220, MAX_ENTRIES = 40;
const escaped = text => String(text).replace(/[&<>"]/g, c => ({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}[c]));

export function svgText() {
  const map = state.maps[state.active], parts = [];
  for (let well = 0; well < state.screen.wells; well++) {
    if (!map.x || map.x[well] === null || !visible(well)) continue;
    if (state.selection.size && !state.selection.has(well)) continue;
    const x = EDGE + map.x[well] * (SIDE - 2 * EDGE), y = EDGE + (1 - map.y[well]) * (SIDE - 2 * EDGE);
    parts.push(`<circle cx="${x.toFixed(2)}" cy="${y.toFixed(2)}" r="${pointSize()}" fill="${state.colors[well]}"/>`);
  }
  const line = (i, content) => `<g transform="translate(${SIDE + 10} ${EDGE + 18 * i})">${content}</g>`;
  parts.push(line(0, `<text font-weight="bold">${escaped(short(state.by))}</text>`));
  if (numbers()) {
    const steps = 24, [low, high] = state.legend;
    const sorted = [...Array(steps).keys()].map(i => `<rect x="0" y="${6 * i + 8}" width="16" height="6.2" fill="${ramp(1 - i / (steps - 1))}"/>`);
    parts.push(line(0, `${sorted.join("")}<text x="24" y="18">${high.toPrecision(3)}</text><text x="24" y="${6 * steps + 6}">${low.toPrecision(3)}</text>`));
  } else {
    const entries = state.legend.filter((_, code) => !state.hiddenCodes.has(code));
    entries.slice(0, MAX_ENTRIES - 4).forEach(({label, color}, i) => parts.push(line(i + 1, `<circle cx="5" cy="-4" r="5" fill="${color}"/><text x="16">${escaped(label)}</text>`)));
    if (entries.length > MAX_ENTRIES - 4) parts.push(line(MAX_ENTRIES - 3, `<text>and ${entries.length - MAX_ENTRIES + 4} more</text>`));
  }
  const caption = [map.name, map.method].filter(Boolean).join(", ");
  parts.push(`<text x="${EDGE}" y="${SIDE - 6}">${escaped(caption)}</text>`);
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${SIDE + LEGEND}" height="${SIDE}" viewBox="0 0 ${SIDE + LEGEND} ${SIDE}" font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#fff"/>${parts.join("")}</svg>`;
}


export function csvText() {
  const names = Object.keys(state.screen.columns), maps = state.maps.filter(map => map.x);
  const quote = value => /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;
  const prefix = map => map.name ? `${map.name}_` : "";
  const rows = [[...names, ...maps.flatMap(map => [`${prefix(map)}x`, `${prefix(map)}y`])]];
  for (let well = 0; well < state.screen.wells; well++) {
    if (state.selection.size ? !state.selection.has(well) : !visible(well)) continue;
    rows.push([...names.map(n => { const c = state.screen.columns[n]; return c.values[c.codes[well]]; }), ...maps.flatMap(map => [map.x[well] ?? "", map.y[well] ?? ""])]);
  }
  return rows.map(row => row.map(quote).join(",")).join("\n") + "\n";
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  say(`Saved ${name}.`);
}

export async function pngBlob(scale = 2) {
  const image = new Image();
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(svgText());
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = (SIDE + LEGEND) * scale; canvas.height = SIDE * scale;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise(resolve => canvas.toBlob(resolve, "image/png"));
}

export function startExport() {
  element("svg").addEventListener("click", () => save(new Blob([svgText()], {type: "image/svg+xml"}), "map.svg"));
  element("png").addEventListener("click", async () => save(await pngBlob(), "map.png"));
  element("csv").addEventListener("click", () => save(new Blob([csvText()], {type: "text/csv"}), "wells.csv"));
}
