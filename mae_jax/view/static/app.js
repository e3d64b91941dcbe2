// Start of the page: the wells at once, each projection when it is ready.
import {ask, changed, element, make, state} from "./state.js";
import {recolor, startLegend} from "./legend.js";
import {position, startMaps} from "./map.js";
import {startPlates} from "./plates.js";
import {choose, startWell} from "./well.js";
import {startSearch} from "./search.js";
import {csvText, pngBlob, startExport, svgText} from "./export.js";

async function start() {
  state.screen = await ask("/api/screen");
  const {wells, total, embeddings, columns} = state.screen;
  const features = embeddings.map(e => `${e.name ? `${e.name}: ` : ""}${e.features} features`).join("; ");
  element("count").textContent = `${wells}${total > wells ? ` of ${total}` : ""} wells, ${features}`;
  const experiments = columns["Metadata_Experiment"];
  element("experiment").append(make("option", {value: "", textContent: "all"}), ...(experiments ? experiments.values.map(value => make("option", {value, textContent: value})) : []));
  element("experiment").addEventListener("change", () => { state.experiment = element("experiment").value; changed(); });
  const projected = startMaps();
  startLegend();
  recolor();
  startPlates();
  startWell();
  startSearch();
  startExport();
  document.body.dataset.shown = "yes";
  await projected;
  document.body.dataset.ready = "yes";
}

// For tests and for the browser's console.
window.viewer = {state, choose, csvText, svgText, pngBlob, position: (well, map = 0) => position(state.maps[map], well)};
start().catch(problem => { element("problem").textContent = problem.message; });
