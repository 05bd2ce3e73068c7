// The plots above the table and in an expanded row.

const SHAPES = ["circle", "rect", "rectRot", "triangle", "star", "crossRot"];
const MAX_DOTS = 40;
const MAX_LINES = 14;

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

/** Chart.js plugin: interval bars behind the points of a scatter plot that have `lo` and `hi`. */
const whiskers = {
  id: "whiskers",
  beforeDatasetsDraw({ ctx, data, scales }) {
    ctx.save();
    ctx.lineWidth = 4;
    for (const dataset of data.datasets) {
      ctx.strokeStyle = dataset.whisker ?? "transparent";
      for (const point of dataset.data) {
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
const clicked = (event, points, plot) => points.length && openRow(plot.data.datasets[points[0].datasetIndex].data[points[0].index].row);

function ranking(parent, track, rows) {
  const drawn = rows.slice(0, MAX_DOTS);
  const dots = kindsOf(drawn).map((kind) => ({
    label: kindName(kind), backgroundColor: color(kind), whisker: color(kind, 0.45), pointRadius: 5, pointHoverRadius: 7,
    data: drawn.flatMap((row, y) => (row.kind === kind ? [{ x: row.robust[0], y, lo: row.robust[1], hi: row.robust[2], row }] : [])),
  }));
  if (track.labelled) {
    dots.push({ label: "clean", backgroundColor: "transparent", borderColor: css("--ink"), pointRadius: 5, borderWidth: 1.5,
      data: drawn.map((row, y) => ({ x: row.clean[0], y, row })) });
  }
  const certified = drawn.flatMap((row, y) => (row.certified == null ? [] : [{ x: row.certified, y, row }]));
  if (certified.length) {
    dots.push({ label: "certified", pointStyle: "line", rotation: 90, borderColor: css("--ink"), borderWidth: 2, pointRadius: 7, data: certified });
  }
  const narrow = parent.clientWidth < 560;
  chart(parent, 90 + 22 * drawn.length, `${track.robust} of ${drawn.length} rows with 95 % intervals; the table has the numbers`, {
    type: "scatter", data: { datasets: dots }, plugins: [whiskers],
    options: {
      onClick: clicked,
      scales: {
        x: { min: -1, max: 1, title: { display: true, text: track.measure } },
        y: { min: -0.5, max: drawn.length - 0.5, reverse: true, grid: { display: false }, afterBuildTicks: (axis) => { axis.ticks = drawn.map((_, value) => ({ value })); },
          ticks: { autoSkip: false, callback: (value) => { const name = drawn[value]?.name ?? ""; const length = narrow ? 22 : 44; return name.length > length ? `${name.slice(0, length - 1)}…` : name; } } },
      },
      plugins: { legend: { labels: { usePointStyle: true, boxHeight: 7 } }, tooltip: { callbacks: { label: ({ raw, dataset }) => `${raw.row.name}: ${dataset.label === "clean" || dataset.label === "certified" ? `${dataset.label} ${number(raw.x)}` : `${track.robust} ${number(raw.x)} ${interval(raw.row.robust)}`}` } } },
    },
  });
  if (drawn.length < rows.length) parent.append(make("p", { class: "note" }, `The first ${drawn.length} of ${rows.length} rows; filter the table to see others.`));
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
  parent.append(make("p", { class: "note" }, `The shape is the model: ${models.map((model, index) => `${model} ${["●", "■", "◆", "▲", "✳", "✕"][index % 6]}`).join(", ")}. The area grows with the seconds an image.`));
}

function lines(parent, family, curves, height = 430) {
  return chart(parent, height, `${family.measure} from no attack to ${family.sizes.at(-1)}, ${curves.length} curves`, {
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
  const family = DATA.families.find((family) => family.family === track.family);
  const names = new Set(rows.map((row) => row.name));
  const chosen = family.curves.filter((curve) => names.has(curve.name));
  lines(parent, family, chosen.slice(0, MAX_LINES));
  const part = chosen.length > MAX_LINES ? `The first ${MAX_LINES} of ${chosen.length} rows; filter the table to see others. ` : "";
  parent.append(make("p", { class: "note" }, `${part}The least over ${family.attacks} attacks that were run at every size. Dashed: no defense.`));
}

function heatTable(parent, caption, columns, rows) {
  const head = make("tr", {}, make("td"), ...columns.map((name) => make("th", { scope: "col" }, make("span", {}, name))));
  const body = rows.map(([name, values]) => make("tr", {}, make("th", { scope: "row", title: name }, name), ...values.map((value, index) => {
    const [background, ink] = heat(value);
    return make("td", { style: `background:${background};color:${ink}`, title: `${name}: ${columns[index]}` }, value == null ? "" : number(value));
  })));
  parent.append(make("p", { class: "note" }, caption), make("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": caption },
    make("table", { class: "heat" }, make("thead", {}, head), make("tbody", {}, ...body))));
}

function attacksTable(parent, track, rows) {
  const headings = track.attacks.map((attack) => `${attack.attack} · ${attack.objective}${attack.control ? " (control)" : ""}`);
  const names = [...new Set(headings)];
  const column = headings.map((heading) => names.indexOf(heading));
  const drawn = rows.slice(0, MAX_DOTS).map((row) => {
    const values = names.map(() => null);
    for (const [attack, srocc] of row.cells) if (values[column[attack]] == null || srocc < values[column[attack]]) values[column[attack]] = srocc;
    return [row.name, values];
  });
  heatTable(parent, `${track.measure} after each attack, the worst of its settings${drawn.length < rows.length ? `; the first ${drawn.length} of ${rows.length} rows` : ""}. Expand a row to see each setting.`, names, drawn);
}

function transferTable(parent, track) {
  heatTable(parent, `${track.measure}: attacks crafted on the undefended model of a column, scored by the row.`,
    track.transfer.sources.map((source) => `crafted on ${source}`), track.transfer.rows.map((name, index) => [name, track.transfer.values[index]]));
}

/** Plot the quality of each image before and after score reflection, beside the mirror line. */
function reflection(parent, row) {
  const { clean, adv, attack } = row.reflection;
  const values = [...clean, ...adv].filter((value) => value != null).map((value) => value / 1000);
  const [low, high] = [Math.min(0, ...values), Math.max(1, ...values)];
  return chart(parent, 280, `Quality of ${clean.length} images before and after ${attack}`, {
    data: { datasets: [
      { type: "scatter", label: "images", data: clean.map((value, index) => ({ x: value / 1000, y: adv[index] == null ? null : adv[index] / 1000 })), backgroundColor: color(row.kind, 0.7), pointRadius: 3 },
      { type: "line", label: "fully reflected", data: [{ x: low, y: 1 - low }, { x: high, y: 1 - high }], borderColor: css("--ink"), borderWidth: 1.2, pointRadius: 0 },
      { type: "line", label: "unchanged", data: [{ x: low, y: low }, { x: high, y: high }], borderColor: css("--dim"), borderDash: [2, 3], borderWidth: 1, pointRadius: 0 },
    ] },
    options: {
      scales: { x: { type: "linear", min: low, max: high, title: { display: true, text: "quality before" } }, y: { min: low, max: high, title: { display: true, text: "quality after" } } },
      plugins: { legend: { position: "bottom", labels: { boxWidth: 14 } } },
    },
  });
}
