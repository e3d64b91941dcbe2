// What is shown: the wells, how they are colored, which are visible, selected and chosen.
export const state = {
  screen: null, // GET /api/screen
  maps: [], // per embedding: {name, x, y, values, ready, canvas, view: {scale, x, y}}
  active: 0, // the embedding whose neighbors, values and exports count
  by: "", // what colors the wells
  colors: [], // per well
  legend: [], // [{label, color}] or a ramp's ends
  hiddenCodes: new Set(), // categories that the legend hides
  range: null, // [low, high] of a number that the legend shows
  experiment: "",
  selection: new Set(),
  chosen: null,
  cursor: null, // the well that the arrow keys are on
  near: [],
  similar: null,
  lasso: false,
};
export const SIMILAR = "similarity to the chosen well";

export const element = id => document.getElementById(id);
export const short = name => name.replace("Metadata_", "");
export const say = text => { element("status").textContent = text; };
export const cssColor = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export async function ask(path) {
  const answer = await fetch(path), value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

export function column(name, well) {
  const c = state.screen.columns[name];
  return c ? c.values[c.codes[well]] : "";
}

export function title(well) {
  const subject = ["Metadata_Gene", "Metadata_Perturbation", "Metadata_Compound"].map(n => column(n, well)).find(Boolean);
  return `${column("Metadata_Plate", well)} ${column("Metadata_Well", well)}` + (subject ? ` · ${subject}` : "");
}

// The numbers behind the current coloring, or null if it is by category.
export function numbers() {
  if (state.by === SIMILAR) return state.similar;
  return state.screen.numbers[state.by] || (state.maps[state.active].values || {})[state.by] || null;
}

export function visible(well) {
  if (state.experiment && column("Metadata_Experiment", well) !== state.experiment) return false;
  const values = numbers();
  if (values) {
    if (!state.range) return true;
    return values[well] !== null && values[well] >= state.range[0] && values[well] <= state.range[1];
  }
  const c = state.screen.columns[state.by];
  return !c || !state.hiddenCodes.has(c.codes[well]);
}

const listeners = [];
export const onChange = listener => listeners.push(listener);
let due = false;
export function changed() { // redraw once per frame
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; listeners.forEach(listener => listener()); });
}
