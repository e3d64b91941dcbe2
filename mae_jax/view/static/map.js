// Maps of all wells, one per embedding: zoom, pan, lasso, arrow keys.
import {ask, changed, cssColor, element, make, onChange, say, state, title, visible} from "./state.js";
import {fillChoices, recolor} from "./legend.js";
import {choose} from "./well.js";

const EDGE = 14;

export function fit(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.style.height = height + "px";
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

// Of a well, in CSS pixels of its map; null if the embedding lacks the well.
export function position(map, well) {
  if (!map.x || map.x[well] === null) return null;
  const span = map.span, view = map.view;
  const x = EDGE + map.x[well] * span, y = EDGE + (1 - map.y[well]) * span;
  return [x * view.scale + view.x, y * view.scale + view.y];
}

export function pointSize() {
  return state.screen.wells > 4000 ? 1.6 : state.screen.wells > 800 ? 2.6 : 4;
}

function draw(map) {
  const width = map.canvas.clientWidth;
  if (!width) return;
  const height = Math.min(width, window.innerHeight * 0.7), pen = fit(map.canvas, width, height);
  map.span = Math.min(width, height) - 2 * EDGE;
  if (!map.x) return;
  const size = pointSize() * Math.min(2.5, Math.sqrt(map.view.scale)), faded = cssColor("--faded");
  const dot = (well, color) => {
    const at = position(map, well);
    if (!at) return;
    pen.fillStyle = color;
    pen.beginPath(); pen.arc(at[0], at[1], size, 0, 7); pen.fill();
  };
  const some = state.selection.size > 0, wells = [...Array(state.screen.wells).keys()].filter(visible);
  for (const well of wells) if (some && !state.selection.has(well)) dot(well, faded);
  for (const well of wells) if (!some || state.selection.has(well)) dot(well, state.colors[well]);
  const ring = (well, color, radius) => {
    const at = well === null ? null : position(map, well);
    if (!at) return;
    pen.strokeStyle = color; pen.lineWidth = 2;
    pen.beginPath(); pen.arc(at[0], at[1], radius, 0, 7); pen.stroke();
  };
  state.near.forEach(n => ring(n.well, cssColor("--ink"), size + 2));
  ring(state.cursor, cssColor("--mark"), size + 6);
  ring(state.chosen, cssColor("--chosen"), size + 4);
  if (map.outline) {
    pen.strokeStyle = cssColor("--mark"); pen.setLineDash([4, 3]);
    pen.beginPath(); map.outline.forEach(([x, y], i) => i ? pen.lineTo(x, y) : pen.moveTo(x, y)); pen.closePath(); pen.stroke();
  }
}

function nearest(map, x, y, reach = 12) {
  let best = null, least = reach * reach;
  for (let well = 0; well < state.screen.wells; well++) {
    const at = visible(well) ? position(map, well) : null;
    if (!at) continue;
    const d = (at[0] - x) ** 2 + (at[1] - y) ** 2;
    if (d < least) { least = d; best = well; }
  }
  return best;
}

function zoom(map, factor, x, y) {
  const view = map.view, scale = Math.max(1, Math.min(60, view.scale * factor)), f = scale / view.scale;
  view.x = x - f * (x - view.x); view.y = y - f * (y - view.y); view.scale = scale;
  if (scale === 1) view.x = view.y = 0;
  changed();
}

function inside([x, y], outline) { // even-odd rule
  let odd = false;
  for (let i = 0, j = outline.length - 1; i < outline.length; j = i++) {
    const [a, b] = outline[i], [c, d] = outline[j];
    if ((b > y) !== (d > y) && x < (c - a) * (y - b) / (d - b) + a) odd = !odd;
  }
  return odd;
}

export function select(wells) {
  state.selection = new Set(wells);
  element("selection").hidden = !state.selection.size;
  element("selected").textContent = `${state.selection.size} wells selected`;
  changed();
}

function step(map, key) { // the nearest well in the arrow's direction
  const from = state.cursor ?? state.chosen;
  if (from === null || !position(map, from)) return [...Array(state.screen.wells).keys()].find(w => visible(w) && position(map, w)) ?? null;
  const [x, y] = position(map, from), [u, v] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[key];
  let best = from, least = Infinity;
  for (let well = 0; well < state.screen.wells; well++) {
    const at = well !== from && visible(well) ? position(map, well) : null;
    if (!at) continue;
    const along = (at[0] - x) * u + (at[1] - y) * v, across = Math.abs((at[0] - x) * v + (at[1] - y) * u);
    if (along > 1e-6 && along + 2 * across < least) { least = along + 2 * across; best = well; }
  }
  return best;
}

function addGestures(map) {
  const canvas = map.canvas, pointers = new Map();
  let moved = 0, pinch = 0;
  const at = event => { const r = canvas.getBoundingClientRect(); return [event.clientX - r.left, event.clientY - r.top]; };
  canvas.addEventListener("wheel", event => { event.preventDefault(); zoom(map, Math.exp(-event.deltaY * 0.0015), ...at(event)); }, {passive: false});
  canvas.addEventListener("pointerdown", event => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    moved = 0; pinch = 0;
    if (state.lasso) map.outline = [at(event)];
  });
  canvas.addEventListener("pointermove", event => {
    const now = at(event), before = pointers.get(event.pointerId);
    if (!before) { tip(event, nearest(map, ...now)); return; }
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    pointers.set(event.pointerId, now);
    if (pointers.size === 2) {
      const [a, b] = [...pointers.values()], distance = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (pinch) zoom(map, distance / pinch, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
      pinch = distance;
    } else if (map.outline) map.outline.push(now);
    else { map.view.x += now[0] - before[0]; map.view.y += now[1] - before[1]; }
    changed();
  });
  const end = event => {
    if (!pointers.delete(event.pointerId)) return;
    const outline = map.outline;
    map.outline = null;
    if (moved < 5) {
      const well = nearest(map, ...at(event));
      if (well !== null) { state.active = map.number; choose(well); }
    } else if (outline) {
      const wells = [...Array(state.screen.wells).keys()].filter(w => { const p = visible(w) && position(map, w); return p && inside(p, outline); });
      select(wells);
      say(`${wells.length} wells selected.`);
    }
    changed();
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", event => { pointers.delete(event.pointerId); map.outline = null; changed(); });
  canvas.addEventListener("pointerleave", () => tip(null));
  canvas.addEventListener("keydown", event => {
    const middle = [canvas.clientWidth / 2, canvas.clientHeight / 2];
    if (event.key.startsWith("Arrow")) { state.cursor = step(map, event.key); if (state.cursor !== null) say(title(state.cursor)); }
    else if (event.key === "Enter" && state.cursor !== null) { state.active = map.number; choose(state.cursor); }
    else if (event.key === "+" || event.key === "=") zoom(map, 1.5, ...middle);
    else if (event.key === "-") zoom(map, 1 / 1.5, ...middle);
    else if (event.key === "0") map.view = {scale: 1, x: 0, y: 0};
    else if (event.key === "Escape") select([]);
    else return;
    event.preventDefault();
    changed();
  });
}

export function tip(event, well) {
  const box = element("tip");
  if (!event || well === undefined || well === null) { box.style.display = "none"; return; }
  box.textContent = title(well);
  box.style.display = "block"; box.style.left = event.clientX + 12 + "px"; box.style.top = event.clientY + 10 + "px";
}

async function follow(map) { // until the projection is ready
  for (;;) {
    const answer = await ask(`/api/projection?embedding=${map.number}`);
    const first = !map.x && answer.x, became = answer.ready && !map.ready;
    if (first || became) {
      Object.assign(map, {x: answer.x, y: answer.y, values: answer.values, method: answer.method});
      if (map.number === state.active) fillChoices();
      recolor();
    }
    map.ready = answer.ready;
    map.words.textContent = answer.method ? ` ${answer.method}` : "";
    map.bar.hidden = answer.ready || Boolean(answer.error);
    map.bar.setAttribute("aria-label", `projecting for ${Math.round(answer.seconds)} s`);
    if (answer.error) { element("problem").textContent = `The projection failed: ${answer.error}`; return; }
    if (answer.ready) { if (answer.seconds > 2) say("The projection is ready."); return; }
    say(`Projecting the wells: ${Math.round(answer.seconds)} s. The first components are shown until then.`);
    await new Promise(resolve => setTimeout(resolve, answer.seconds < 2 ? 150 : 1000));
  }
}

export function startMaps() {
  state.maps = state.screen.embeddings.map((embedding, number) => {
    const canvas = make("canvas", {tabIndex: 0});
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", `Map of ${embedding.wells} wells${embedding.name ? ` by ${embedding.name}` : ""}. Arrow keys move between wells, Enter chooses, plus and minus zoom.`);
    const words = make("span", {className: "soft small"}), bar = make("progress");
    const caption = make("figcaption", {}, embedding.name || "Map", words);
    element("maps").append(make("figure", {}, caption, bar, canvas));
    const map = {...embedding, number, canvas, words, bar, view: {scale: 1, x: 0, y: 0}, span: 1, ready: false};
    addGestures(map);
    return map;
  });
  document.querySelector("main").classList.toggle("several", state.maps.length > 1);
  if (state.maps.length === 1) state.maps[0].canvas.id = "map";
  onChange(() => state.maps.forEach(draw));
  window.addEventListener("resize", changed);
  const mode = lasso => {
    state.lasso = lasso;
    element("lasso").setAttribute("aria-pressed", String(lasso));
    element("pan").setAttribute("aria-pressed", String(!lasso));
    state.maps.forEach(map => map.canvas.classList.toggle("lasso", lasso));
  };
  element("lasso").addEventListener("click", () => mode(true));
  element("pan").addEventListener("click", () => mode(false));
  element("clear").addEventListener("click", () => select([]));
  return Promise.all(state.maps.map(follow));
}
