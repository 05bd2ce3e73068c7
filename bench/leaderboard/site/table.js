// The ranking table: columns, sorting, filtering and expandable rows.

const BATCH = 120;  // rows that are added at once; the others follow when the browser is idle
const state = { track: DATA.tracks[0], key: "rank", down: false, shown: [], open: new Map() };

const textCell = (text, far) => make("td", { class: `spec${far ? " far" : ""}` }, text);
const spanCell = (triple, far) => make("td", { class: `num${far ? " far" : ""}` }, number(triple[0]), " ", make("span", { class: "span" }, interval(triple)));
const lowest = (value) => value ?? Number.NEGATIVE_INFINITY;

/** Return the columns: [key, heading, sort value, cell, far: whether it is hidden on a phone, numeric]. */
function columns(track) {
  return [
    ["rank", "rank", (row) => row.rank ?? 1e9],
    ["model", "model", (row) => row.model, (row) => make("td", { class: "name" }, row.model)],
    ["defense", "defense", (row) => row.defense, (row) => make("td", { class: "spec" }, make("span", { class: "dot", style: `background:${color(row.kind)}` }), row.defense, make("span", { class: "span far" }, row.kind === "none" ? "" : ` ${row.kind}`))],
    track.labelled && ["clean", "clean SROCC", (row) => lowest(row.clean[0]), (row) => spanCell(row.clean, true), true, true],
    ["robust", track.robust, (row) => lowest(row.robust[0]), (row) => spanCell(row.robust), false, true],
    ["worst", "worst attack", (row) => row.worst, (row) => textCell(row.worst, true), true],
    track.rows.some((row) => row.certified != null) && ["certified", "certified", (row) => lowest(row.certified), (row) => make("td", { class: "num far" }, row.certified == null ? "" : number(row.certified)), true, true],
    ["shift", "largest mean |shift|", (row) => lowest(row.shift[0]), (row) => make("td", { class: "num far" }, number(row.shift[0], 3)), true, true],
    ["relative", "|shift| / IQR", (row) => lowest(relative(row)), (row) => make("td", { class: "num far" }, number(relative(row))), true, true],
    ["noise", "noise |shift|", (row) => lowest(row.noise), (row) => make("td", { class: "num far" }, number(row.noise, 3)), true, true],
    ["cost", "cost", (row) => lowest(row.cost), (row) => make("td", { class: "num far" }, row.cost == null ? "–" : `${number(row.cost)}×`), true, true],
    ["flags", "flags", (row) => row.flags.length, (row) => make("td", { class: "flag far" }, row.flags.map(([name]) => name).join(", ")), true],
  ].filter(Boolean);
}

/** Return the largest mean |shift| as a multiple of the inter-quartile range of the clean qualities. */
const relative = (row) => (row.spread > 0 && row.shift[0] != null ? row.shift[0] / row.spread : null);

const descends = (key) => ["clean", "robust", "certified", "shift", "relative", "noise", "cost", "flags"].includes(key);

function heads() {
  const cells = columns(state.track).map(([key, heading, , , far, numeric]) => {
    const button = make("button", { type: "button" }, heading);
    button.addEventListener("click", () => sortBy(key));
    const sorted = state.key === key ? { "aria-sort": state.down ? "descending" : "ascending" } : {};
    return make("th", { scope: "col", class: `${far ? "far " : ""}${numeric ? "num" : ""}`, "data-key": key, ...sorted }, button);
  });
  byId("board").tHead.replaceChildren(make("tr", {}, ...cells));
}

function sortBy(key) {
  state.down = state.key === key ? !state.down : descends(key);
  state.key = key;
  show();
  byId("board").tHead.querySelector(`[data-key="${key}"] button`).focus();
}

function chosen() {
  const terms = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [model, kind, ranked] = [byId("model").value, byId("kind").value, byId("ranked").checked];
  return state.track.rows.filter((row) => {
    if ((model && row.model !== model) || (kind && row.kind !== kind) || (ranked && row.rank == null)) return false;
    const text = [row.name, row.kind, row.worst, row.flags.map(([name]) => name).join(" ")].join(" ").toLowerCase();
    return terms.every((term) => text.includes(term));
  });
}

/** Sort and filter the rows, and draw table and plot. */
function show() {
  const by = columns(state.track).find(([key]) => key === state.key)?.[2] ?? ((row) => row.rank ?? 1e9);
  const order = new Map(state.track.rows.map((row, index) => [row, index]));
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  state.shown = chosen().sort((a, b) => (state.down ? -1 : 1) * compare(by(a), by(b)) || order.get(a) - order.get(b));
  heads();
  state.open.clear();
  state.filled = 0;
  byId("board").tBodies[0].replaceChildren();
  fill(BATCH);
  byId("count").textContent = `${state.shown.length} of ${state.track.rows.length} rows`;
  plot();
}

function fill(count) {
  const shownColumns = columns(state.track);
  const from = state.filled;
  const next = state.shown.slice(from, from + count);
  byId("board").tBodies[0].append(...next.map((row) => rowElement(row, shownColumns)));
  state.filled += next.length;
  if (state.filled < state.shown.length) {
    const [shown, later] = [state.shown, window.requestIdleCallback ?? ((work) => setTimeout(work, 30))];
    later(() => shown === state.shown && from + next.length === state.filled && fill(BATCH));
  }
}

function rowElement(row, shownColumns) {
  const opener = make("button", { type: "button", class: "opener", "aria-expanded": "false", "aria-label": `Details of ${row.name}` });
  const first = make("td", {}, opener, row.rank == null ? "–" : String(row.rank));
  const element = make("tr", { class: row.rank == null ? "row unranked" : "row" }, first, ...shownColumns.slice(1).map(([, , , cell]) => cell(row)));
  element.row = row;
  element.addEventListener("click", (event) => {
    if (event.target.closest("a") || String(window.getSelection())) return;
    toggle(element, opener);
  });
  return element;
}

function toggle(element, opener) {
  const { row } = element;
  const known = state.open.get(row);
  opener.setAttribute("aria-expanded", String(!known));
  if (known) {
    known.charts.forEach((chart) => chart.destroy());
    known.element.remove();
    state.open.delete(row);
    return;
  }
  const [panels, draw] = detail(state.track, row);
  const below = make("tr", { class: "detail" }, make("td", { colSpan: columns(state.track).length }, panels));
  element.after(below);
  state.open.set(row, { element: below, charts: draw() });
}

/** Expand a row that was clicked on in a plot, and scroll to it. */
function openRow(row) {
  while (state.filled < state.shown.length && !state.shown.slice(0, state.filled).includes(row)) fill(BATCH);
  const element = [...byId("board").tBodies[0].rows].find((element) => element.row === row);
  if (!element) return;
  if (!state.open.has(row)) toggle(element, element.querySelector(".opener"));
  element.scrollIntoView({ block: "start" });
  element.querySelector(".opener").focus();
}
