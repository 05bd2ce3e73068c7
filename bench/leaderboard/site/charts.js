// The plots above the table and in an opened row.

const SHAPES = ["circle", "rect", "rectRot", "triangle", "star", "crossRot"];
const MOST_DOTS = 40;
const MOST_LINES = 14;
function chart(parent, height, label, config) {
  const canvas = make("canvas", { role: "img", "aria-label": label });
  parent.append(make("div", { class: "canvas", style: `height:${height}px` }, canvas));
  Chart.defaults.color = css("--dim");
  Chart.defaults.borderColor = css("--line");
  Chart.defaults.font.family = "system-ui, 'DejaVu Sans', sans-serif";
  Chart.defaults.animation = false;
  config.options = { responsive: true, maintainAspectRatio: false, ...config.options };
  return new Chart(canvas, config);
}

/** Bars of intervals behind the dots of a scatter whose points have `lo` and `hi`. */
const whiskers = {
  id: "whiskers",
  beforeDatasetsDraw({ ctx, data, scales }) {
    ctx.save();
    ctx.lineWidth = 4;
    for (const set of data.datasets) {
      ctx.strokeStyle = set.whisker ?? "transparent";
      for (const point of set.data) {
        if (point.lo == null) continue;
        ctx.beginPath();
        ctx.moveTo(scales.x.getPixelForValue(point.lo), scales.y.getPixelForValue(point.y));
        ctx.lineTo(scales.x.getPixelForValue(point.hi), scales.y.getPixelForValue(point.y));
        ctx.stroke();
      }
    }
    ctx.restore();
  },
};

const kindsOf = (rows) => [...new Set(rows.map((row) => row.kind))];
const kindName = (kind) => (kind === "none" ? "no defense" : kind);
const clicked = (event, points, self) => points.length && openRow(self.data.datasets[points[0].datasetIndex].data[points[0].index].row);

function ranking(parent, track, rows) {
  const some = rows.slice(0, MOST_DOTS);
  const dots = kindsOf(some).map((kind) => ({
    label: kindName(kind), backgroundColor: color(kind), whisker: color(kind, 0.45), pointRadius: 5, pointHoverRadius: 7,
    data: some.flatMap((row, y) => (row.kind === kind ? [{ x: row.robust[0], y, lo: row.robust[1], hi: row.robust[2], row }] : [])),
  }));
  if (track.labelled) {
    dots.push({ label: "clean", backgroundColor: "transparent", borderColor: css("--ink"), pointRadius: 5, borderWidth: 1.5,
      data: some.map((row, y) => ({ x: row.clean[0], y, row })) });
  }
  const certified = some.flatMap((row, y) => (row.certified == null ? [] : [{ x: row.certified, y, row }]));
  if (certified.length) {
    dots.push({ label: "certified", pointStyle: "line", rotation: 90, borderColor: css("--ink"), borderWidth: 2, pointRadius: 7, data: certified });
  }
  const narrow = parent.clientWidth < 560;
  chart(parent, 90 + 22 * some.length, `${track.robust} of ${some.length} rows with 95 % intervals; the table has the numbers`, {
    type: "scatter", data: { datasets: dots }, plugins: [whiskers],
    options: {
      onClick: clicked,
      scales: {
        x: { min: -1, max: 1, title: { display: true, text: track.measure } },
        y: { min: -0.5, max: some.length - 0.5, reverse: true, grid: { display: false }, afterBuildTicks: (axis) => { axis.ticks = some.map((_, value) => ({ value })); },
          ticks: { autoSkip: false, callback: (value) => { const name = some[value]?.name ?? ""; const most = narrow ? 22 : 44; return name.length > most ? `${name.slice(0, most - 1)}…` : name; } } },
      },
      plugins: { legend: { labels: { usePointStyle: true, boxHeight: 7 } }, tooltip: { callbacks: { label: ({ raw, dataset }) => `${raw.row.name}: ${dataset.label === "clean" || dataset.label === "certified" ? `${dataset.label} ${number(raw.x)}` : `${track.robust} ${number(raw.x)} ${interval(raw.row.robust)}`}` } } },
    },
  });
  if (some.length < rows.length) parent.append(make("p", { class: "note" }, `The first ${some.length} of ${rows.length} rows; choose fewer above.`));
}

function frontier(parent, track, rows) {
  const models = [...new Set(track.rows.map((row) => row.model))];
  const datasets = kindsOf(rows).map((kind) => ({
    label: kindName(kind), backgroundColor: color(kind, 0.75), borderColor: color(kind),
    data: rows.filter((row) => row.kind === kind && row.clean[0] != null && row.robust[0] != null).map((row) => ({ x: row.clean[0], y: row.robust[0], row })),
    pointStyle: ({ raw }) => SHAPES[models.indexOf(raw?.row.model) % SHAPES.length],
    pointRadius: ({ raw }) => 6 * Math.cbrt(Math.sqrt(Math.min(Math.max(raw?.row.cost ?? 1, 0.5), 1000))),
  }));
  chart(parent, 430, `Clean against ${track.robust} of ${rows.length} rows; the table has the numbers`, {
    type: "scatter", data: { datasets },
    options: {
      onClick: clicked,
      scales: { x: { grace: "5%", title: { display: true, text: `clean ${track.measure}` } }, y: { grace: "5%", title: { display: true, text: `robust ${track.measure}` } } },
      plugins: { legend: { labels: { boxWidth: 12 } }, tooltip: { callbacks: { label: ({ raw }) => `${raw.row.name}: clean ${number(raw.x)}, robust ${number(raw.y)}, cost ${number(raw.row.cost)}×` } } },
    },
  });
  parent.append(make("p", { class: "note" }, `Shapes are models: ${models.map((model, place) => `${model} ${["●", "■", "◆", "▲", "✳", "✕"][place % 6]}`).join(", ")}. Area grows with seconds an image.`));
}

function lines(parent, family, curves, height = 430) {
  return chart(parent, height, `${family.measure} from no attack to ${family.sizes.at(-1)}, ${curves.length} lines`, {
    type: "line",
    data: { labels: family.sizes, datasets: curves.map((curve) => ({ label: curve.name, data: curve.values, borderColor: color(curve.kind), backgroundColor: color(curve.kind), borderDash: curve.kind === "none" ? [5, 3] : [], spanGaps: true, pointRadius: 4 })) },
    options: {
      interaction: { mode: "nearest", intersect: false },
      scales: { y: { suggestedMin: -0.2, suggestedMax: 1, title: { display: height > 300, text: family.measure } } },
      plugins: { legend: { display: curves.length > 1, position: "bottom", labels: { usePointStyle: true } } },
    },
  });
}

function curves(parent, track, rows) {
  const family = DATA.families.find((one) => one.family === track.family);
  const names = new Set(rows.map((row) => row.name));
  const chosen = family.curves.filter((curve) => names.has(curve.name));
  lines(parent, family, chosen.slice(0, MOST_LINES));
  const some = chosen.length > MOST_LINES ? `The first ${MOST_LINES} of ${chosen.length} rows; choose fewer above. ` : "";
  parent.append(make("p", { class: "note" }, `${some}The least over ${family.attacks} attacks that were run at every size. Dashed: no defense.`));
}

function heatTable(parent, caption, columns, lines_) {
  const head = make("tr", {}, make("td"), ...columns.map((name) => make("th", { scope: "col" }, make("span", {}, name))));
  const body = lines_.map(([name, values]) => make("tr", {}, make("th", { scope: "row", title: name }, name), ...values.map((value, place) => {
    const [back, ink] = heat(value);
    return make("td", { style: `background:${back};color:${ink}`, title: `${name}: ${columns[place]}` }, value == null ? "" : number(value));
  })));
  parent.append(make("p", { class: "note" }, caption), make("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": caption },
    make("table", { class: "heat" }, make("thead", {}, head), make("tbody", {}, ...body))));
}

function attacksTable(parent, track, rows) {
  const names = [...new Set(track.attacks.map((attack) => `${attack.attack} · ${attack.objective}${attack.control ? " (control)" : ""}`))];
  const column = track.attacks.map((attack) => names.indexOf(`${attack.attack} · ${attack.objective}${attack.control ? " (control)" : ""}`));
  const some = rows.slice(0, MOST_DOTS).map((row) => {
    const values = names.map(() => null);
    for (const [place, srocc] of row.cells) if (values[column[place]] == null || srocc < values[column[place]]) values[column[place]] = srocc;
    return [row.name, values];
  });
  heatTable(parent, `${track.measure} after each attack, the worst of its settings${some.length < rows.length ? `; the first ${some.length} of ${rows.length} rows` : ""}. Open a row for each setting.`, names, some);
}

function transferTable(parent, track) {
  heatTable(parent, `${track.measure}: attacks crafted on the undefended model of a column, scored by the row.`,
    track.transfer.sources.map((source) => `crafted on ${source}`), track.transfer.rows.map((name, place) => [name, track.transfer.values[place]]));
}

/** Each image's quality before and after, beside the mirror line. */
function reflection(parent, row) {
  const { clean, adv, attack } = row.reflection;
  const values = [...clean, ...adv].filter((value) => value != null).map((value) => value / 1000);
  const [low, high] = [Math.min(0, ...values), Math.max(1, ...values)];
  return chart(parent, 280, `Quality of ${clean.length} images before and after ${attack}`, {
    data: { datasets: [
      { type: "scatter", label: "images", data: clean.map((value, place) => ({ x: value / 1000, y: adv[place] == null ? null : adv[place] / 1000 })), backgroundColor: color(row.kind, 0.7), pointRadius: 3 },
      { type: "line", label: "fully reflected", data: [{ x: low, y: 1 - low }, { x: high, y: 1 - high }], borderColor: css("--ink"), borderWidth: 1.2, pointRadius: 0 },
      { type: "line", label: "nothing moved", data: [{ x: low, y: low }, { x: high, y: high }], borderColor: css("--dim"), borderDash: [2, 3], borderWidth: 1, pointRadius: 0 },
    ] },
    options: {
      scales: { x: { type: "linear", min: low, max: high, title: { display: true, text: "quality before" } }, y: { min: low, max: high, title: { display: true, text: "quality after" } } },
      plugins: { legend: { position: "bottom", labels: { boxWidth: 14 } } },
    },
  });
}
