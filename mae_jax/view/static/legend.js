// Colors of wells and the legend, whose entries and range filter what is shown.
import {SIMILAR, changed, element, make, numbers, short, state} from "./state.js";

const CATEGORY = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ff8c42", "#7a5195", "#2f4b7c", "#a05195", "#5fad56", "#b4436c"];
const NONE = "#b8c0c8";
const MAX_ENTRIES = 200;

export function ramp(t) { // viridis at five points
  const stops = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const x = Math.max(0, Math.min(1, t)) * 4, i = Math.min(3, Math.floor(x)), f = x - i;
  return `rgb(${stops[i].map((v, k) => Math.round(v + f * (stops[i + 1][k] - v))).join(",")})`;
}

function categoryColor(values, i) {
  if (values[i] === "") return NONE;
  if (values.length <= CATEGORY.length) return CATEGORY[i];
  return `hsl(${((i * 137.5) % 360).toFixed(1)} ${55 + 15 * (i % 3)}% ${42 + 8 * (i % 4)}%)`;
}

export function recolor() {
  const values = numbers();
  if (values) colorByNumbers(values);
  else if (state.screen.columns[state.by]) colorByCategory(state.screen.columns[state.by]);
  changed();
}

function colorByNumbers(values) {
  const sorted = values.filter(v => v !== null).sort((a, b) => a - b);
  const at = q => sorted[Math.round(q * (sorted.length - 1))];
  const low = at(0.01), high = Math.max(at(0.99), low + 1e-9);
  state.colors = values.map(v => v === null ? NONE : ramp((v - low) / (high - low)));
  state.legend = [low, high];
  const bar = make("div", {className: "ramp"});
  bar.style.background = `linear-gradient(90deg, ${[0, .25, .5, .75, 1].map(ramp).join(",")})`;
  const input = (label, index, value) => {
    const field = make("input", {type: "number", step: "any", value: state.range ? state.range[index] : value});
    field.setAttribute("aria-label", label);
    field.addEventListener("change", () => {
      const range = state.range || [sorted[0], sorted[sorted.length - 1]];
      range[index] = Number(field.value);
      state.range = range;
      changed();
    });
    return field;
  };
  const all = make("button", {type: "button", textContent: "Show all"});
  all.addEventListener("click", () => { state.range = null; recolor(); });
  element("legend").replaceChildren(
    low.toPrecision(3), bar, high.toPrecision(3), " show from ",
    input("lowest value shown", 0, sorted[0]), " to ", input("highest value shown", 1, sorted[sorted.length - 1]), all,
  );
}

function colorByCategory(c) {
  state.colors = c.codes.map(code => categoryColor(c.values, code));
  state.legend = c.values.map((label, i) => ({label: label || "(none)", color: categoryColor(c.values, i)}));
  const entries = state.legend.slice(0, MAX_ENTRIES).map(({label, color}, code) => {
    const dot = make("i"), entry = make("button", {type: "button"}, dot, label);
    dot.style.background = color;
    entry.setAttribute("aria-pressed", String(!state.hiddenCodes.has(code)));
    entry.addEventListener("click", event => {
      if (event.shiftKey) state.hiddenCodes = new Set([...c.values.keys()].filter(other => other !== code));
      else if (!state.hiddenCodes.delete(code)) state.hiddenCodes.add(code);
      recolor();
    });
    return entry;
  });
  const all = make("button", {type: "button", textContent: "Show all"});
  all.addEventListener("click", () => { state.hiddenCodes.clear(); recolor(); });
  element("legend").replaceChildren(...entries, ...(c.values.length > MAX_ENTRIES ? [`and ${c.values.length - MAX_ENTRIES} more`] : []), all);
}

export function fillChoices() {
  const by = element("by"), before = by.value;
  const option = (value, text) => make("option", {value, textContent: text});
  const measures = Object.keys(state.maps[state.active].values || {});
  by.replaceChildren(
    ...Object.keys(state.screen.columns).map(n => option(n, short(n))),
    ...measures.map(n => option(n, n)),
    ...(state.similar ? [option(SIMILAR, SIMILAR)] : []),
  );
  if ([...by.options].some(o => o.value === before)) by.value = before;
}

export function startLegend() {
  fillChoices();
  const columns = state.screen.columns;
  const wanted = ["Metadata_Gene", "Metadata_Perturbation", "Metadata_Compound", "Metadata_Plate"];
  state.by = wanted.find(n => columns[n] && columns[n].values.length > 1) || Object.keys(columns)[0];
  element("by").value = state.by;
  element("by").addEventListener("change", () => {
    state.by = element("by").value;
    state.hiddenCodes.clear();
    state.range = null;
    recolor();
  });
}
