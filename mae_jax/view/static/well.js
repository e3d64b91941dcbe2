// The chosen well: its image with levels per channel, metadata, nearest neighbors.
import {SIMILAR, ask, changed, column, element, make, say, short, state, title} from "./state.js";
import {fillChoices, recolor} from "./legend.js";

let channels = []; // of the shown site: {name, color, low, high, max, shown, auto}
const levels = new Map(); // channel -> [low, high], kept from well to well
const hidden = new Set(); // channels switched off, kept from well to well

function imageOf(well, size, site = 0) {
  const query = new URLSearchParams({well, size, site});
  const shown = channels.filter(c => !hidden.has(c.name));
  if (shown.length && shown.length < channels.length) shown.forEach(c => query.append("channel", c.name));
  for (const c of channels) if (levels.has(c.name)) query.append("level", [c.name, ...levels.get(c.name)].join(":"));
  return `/api/image?${query}`;
}

let timer = 0;
function showPicture(wait = 0) {
  clearTimeout(timer);
  timer = setTimeout(() => {
    element("picture").alt = `${title(state.chosen)}: ${channels.filter(c => !hidden.has(c.name)).map(c => c.name).join(", ")}`;
    element("picture").src = imageOf(state.chosen, 768, element("site").value || 0);
  }, wait);
}

function channelRow(c) {
  const dot = make("i"), check = make("input", {type: "checkbox", checked: !hidden.has(c.name)});
  dot.style.background = c.color;
  check.addEventListener("change", () => { if (check.checked) hidden.delete(c.name); else hidden.add(c.name); showPicture(); });
  const [low, high] = levels.get(c.name) || [c.low, c.high];
  const slider = (label, value) => {
    const range = make("input", {type: "range", min: 0, max: Math.max(c.max, c.high), step: Math.max(c.max, c.high) / 400, value});
    range.setAttribute("aria-label", `${c.name}: ${label} level`);
    range.title = label;
    range.addEventListener("input", () => { levels.set(c.name, [Number(black.value), Number(white.value)]); showPicture(120); });
    return range;
  };
  const black = slider("black", low), white = slider("white", high);
  return make("div", {className: "channel"}, make("label", {}, check, dot, c.name), black, white);
}

async function showChannels() {
  channels = await ask(`/api/channels?well=${state.chosen}&site=${element("site").value || 0}`);
  const reset = make("button", {type: "button", textContent: "Automatic levels"});
  reset.addEventListener("click", () => { levels.clear(); hidden.clear(); showChannels(); });
  const head = make("div", {className: "channel soft"}, make("span", {textContent: "Channel"}), make("span", {textContent: "Black"}), make("span", {textContent: "White"}));
  element("channels").replaceChildren(head, ...channels.map(channelRow), make("div", {}, reset));
  showPicture();
}

export async function choose(well) {
  state.chosen = state.cursor = well;
  element("panel").dataset.well = "";
  element("problem").textContent = "";
  try {
    const found = await ask(`/api/well?well=${well}&embedding=${state.active}`);
    if (state.chosen !== well) return;
    state.near = found.neighbors;
    state.similar = found.similar;
    element("name").textContent = title(well);
    element("chosen").hidden = false;
    element("metadata").replaceChildren(...Object.keys(state.screen.columns).flatMap(name => [
      make("dt", {textContent: short(name)}), make("dd", {textContent: column(name, well) || "–"}),
    ]));
    const name = state.maps[state.active].name;
    element("neighbors-of").textContent = state.maps.length > 1 ? `, ${name}` : "";
    element("neighbors").replaceChildren(...state.near.map(n => {
      const button = make("button", {type: "button"});
      button.dataset.well = n.well;
      if (state.screen.images[n.well]) button.append(make("img", {src: `/api/image?well=${n.well}&size=128`, alt: "", loading: "lazy"}));
      button.append(make("span", {textContent: `${n.cosine.toFixed(2)} ${title(n.well)}`}));
      button.addEventListener("click", () => choose(n.well));
      return button;
    }));
    fillChoices();
    if (state.by === SIMILAR) recolor(); else changed();
    const images = state.screen.images[well];
    for (const id of ["picture", "channels", "site"]) element(id).hidden = !images;
    element("site").parentElement.hidden = !images || found.sites < 2;
    if (images) {
      element("site").replaceChildren(...Array.from({length: found.sites}, (_, i) => make("option", {value: i, textContent: `${i + 1} of ${found.sites}`})));
      element("picture").classList.remove("broken");
      await showChannels();
    }
    say(`${title(well)} chosen.`);
    history.replaceState(null, "", `#plate=${encodeURIComponent(column("Metadata_Plate", well))}&well=${encodeURIComponent(column("Metadata_Well", well))}`);
  } catch (problem) {
    element("picture").classList.add("broken");
    element("channels").replaceChildren();
    element("problem").textContent = problem.message;
  }
  if (state.chosen === well) element("panel").dataset.well = well;
}

export function startWell() {
  const picture = element("picture");
  element("site").addEventListener("change", () => showChannels().catch(problem => { element("problem").textContent = problem.message; }));
  picture.addEventListener("load", () => picture.classList.remove("broken"));
  picture.addEventListener("error", async () => {
    picture.classList.add("broken");
    const answer = await fetch(picture.src);
    if (!answer.ok) element("problem").textContent = (await answer.json()).error;
  });
}
