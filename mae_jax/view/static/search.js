// Find wells by any value of their metadata, or by the page's address: #plate=P1&well=B02 (and any
// other column) chooses one, #find=TP53 searches.
import {column, element, make, say, state} from "./state.js";
import {select} from "./map.js";
import {choose} from "./well.js";

const MAX_NAMES = 5000;

function matches(query) {
  const wanted = query.trim().toLowerCase(), names = Object.keys(state.screen.columns);
  const wells = [...Array(state.screen.wells).keys()];
  const exact = wells.filter(w => names.some(n => column(n, w).toLowerCase() === wanted) || `${column("Metadata_Plate", w)} ${column("Metadata_Well", w)}`.toLowerCase() === wanted);
  return exact.length ? exact : wells.filter(w => names.some(n => column(n, w).toLowerCase().includes(wanted)));
}

export function find(query) {
  if (!query.trim()) { select([]); return; }
  const wells = matches(query);
  select(wells);
  say(wells.length ? `${wells.length} wells match “${query}”.` : `No well matches “${query}”.`);
  if (wells.length) choose(wells[0]);
}

function followAddress() {
  const query = new URLSearchParams(location.hash.slice(1));
  if (query.has("find")) { element("query").value = query.get("find"); find(query.get("find")); return; }
  const wanted = [...query].map(([name, value]) => [`Metadata_${name[0].toUpperCase()}${name.slice(1)}`, value]).filter(([name]) => state.screen.columns[name]);
  if (!wanted.length) return;
  const well = [...Array(state.screen.wells).keys()].find(w => wanted.every(([name, value]) => column(name, w) === value));
  if (well === undefined) element("problem").textContent = `There is no well ${wanted.map(w => w[1]).join(" ")} among those shown.`;
  else choose(well);
}

export function startSearch() {
  const plain = Object.keys(state.screen.columns).filter(n => !(n in state.screen.numbers));
  const names = [...new Set(plain.flatMap(n => state.screen.columns[n].values))].filter(Boolean).slice(0, MAX_NAMES);
  element("names").replaceChildren(...names.map(value => make("option", {value})));
  element("search").addEventListener("submit", event => { event.preventDefault(); find(element("query").value); });
  element("query").addEventListener("change", () => find(element("query").value));
  window.addEventListener("hashchange", followAddress);
  followAddress();
}
