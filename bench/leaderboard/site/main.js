// The choice of tracks, tabs and filters, and the start of the page.

const TABS = [
  ["ranking", "Ranking", ranking, () => true],
  ["frontier", "Clean and robust", frontier, (track) => track.labelled],
  ["attacks", "Each attack", attacksTable, () => true],
  ["curves", "Against ε", curves, (track) => DATA.families.some((family) => family.family === track.family)],
  ["transfer", "Transfer", transferTable, (track) => track.transfer],
];
let tab = "ranking";

const tabsNow = () => TABS.filter(([, , , has]) => has(state.track));

function tabs() {
  if (!tabsNow().some(([key]) => key === tab)) tab = "ranking";
  byId("tabs").replaceChildren(...tabsNow().map(([key, name]) => {
    const button = make("button", { type: "button", role: "tab", id: `tab-${key}`, "aria-selected": String(key === tab), "aria-controls": "plot", tabIndex: key === tab ? 0 : -1 }, name);
    button.addEventListener("click", () => choose(key));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const keys = tabsNow().map(([name]) => name);
      choose(keys[(keys.indexOf(key) + step + keys.length) % keys.length]);
    });
    return button;
  }));
  byId("plot").setAttribute("aria-labelledby", `tab-${tab}`);
}

function choose(key) {
  tab = key;
  tabs();
  plot();
  byId(`tab-${key}`).focus();
}

function plot() {
  const parent = byId("plot");
  [...parent.querySelectorAll("canvas")].forEach((canvas) => Chart.getChart(canvas)?.destroy());
  parent.replaceChildren();
  if (!state.shown.length) parent.append(make("p", { class: "note" }, "No row matches the filters."));
  else TABS.find(([key]) => key === tab)[2](parent, state.track, state.shown);
}

function options(select, all, values) {
  const kept = values.includes(select.value) ? select.value : "";
  select.replaceChildren(make("option", { value: "" }, all), ...values.map((value) => make("option", { value }, value === "none" ? "no defense" : value)));
  select.value = kept;
}

function track() {
  state.track = DATA.tracks[Number(byId("track").value)];
  const { labels, labelled, images, references, title, rows } = state.track;
  options(byId("model"), "all", [...new Set(rows.map((row) => row.model))].sort());
  options(byId("kind"), "all", [...new Set(rows.map((row) => row.kind))].sort());
  const about = labelled
    ? `Labels: ${labels}${labels.startsWith("pseudo") ? ", computed, not people's opinions" : ""}.`
    : "Nobody rated these images: stability SROCC is between attacked and clean qualities.";
  const few = references < 30 ? ` Only ${references} reference images: the intervals are wide and rough, and shared ranks say little.` : "";
  byId("about-track").textContent = `${images}. ${about}${few}`;
  byId("caption").textContent = `${title}: expand a row to see its attacks, plots and command`;
  history.replaceState(null, "", `#${state.track.slug}`);
  tabs();
  show();
}

const linked = DATA.tracks.findIndex((track) => `#${track.slug}` === location.hash);
byId("track").append(...DATA.tracks.map((track, index) => make("option", { value: index }, `${track.title} (${track.rows.length} rows)`)));
const largest = DATA.tracks.reduce((best, track, index) => (track.rows.length > DATA.tracks[best].rows.length ? index : best), 0);
byId("track").value = String(linked < 0 ? largest : linked);
byId("bar").addEventListener("submit", (event) => event.preventDefault());
byId("track").addEventListener("change", track);
let timer;
byId("search").addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(show, 120);
});
for (const id of ["model", "kind", "ranked"]) byId(id).addEventListener("change", show);
dark.addEventListener("change", show);
track();
document.documentElement.dataset.ready = String(Math.round(performance.now()));
