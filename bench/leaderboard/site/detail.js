// The details of an expanded row: its attacks, plots, images and command.

function detail(track, row) {
  const panels = make("div", { class: "panels" });
  const charts = [];
  const panel = (title, wide, ...children) => {
    const section = make("section", wide ? { class: "wide-panel" } : {}, make("h3", {}, title), ...children);
    panels.append(section);
    return section;
  };
  panel("Reproduce this row", true, command(row.command), facts(row));
  if (row.missing.length) {
    panel("Why it is not ranked", true, make("ul", {}, ...row.missing.map((reason) => make("li", { class: "spec" }, reason)),
      ...(row.missingMore ? [make("li", {}, `and ${row.missingMore} more`)] : [])));
  }
  if (row.flags.length) {
    panel("Flags: signs that this robustness may not be real", true, make("ul", {}, ...row.flags.map(([name, why]) => make("li", { class: "spec" },
      DATA.flags ? make("a", { href: `${DATA.flags}#${name}` }, name) : name, `: ${why}`))));
  }
  panel("Attacks, the worst first", true, attackTable(track, row));
  if (row.examples?.length) panel("Images before and after", true, examples(row));
  const family = DATA.families.find((family) => family.family === track.family);
  const curve = family?.curves.find((curve) => curve.name === row.name);
  if (curve) charts.push(() => lines(panel("Against the size of the attack", false), family, [curve], 280));
  if (row.reflection) charts.push(() => reflection(panel(`Under ${row.reflection.attack}`, false), row));
  return [panels, () => charts.map((draw) => draw())];
}

function command(text) {
  const button = make("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // a page that is opened from disk may not use the clipboard
      const area = make("textarea", { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
  });
  return make("div", { class: "command" }, make("code", {}, text), button);
}

function facts(row) {
  const links = Object.entries(row.links).map(([name, address]) => make("a", { href: address }, name === "card" ? "card of the weights" : `paper: ${name}`));
  return links.length ? make("p", {}, ...links.flatMap((link, index) => (index ? [" · ", link] : [link]))) : null;
}

function attackTable(track, row) {
  const cells = [...row.cells].sort((a, b) => track.attacks[a[0]].control - track.attacks[b[0]].control || (a[1] ?? 2) - (b[1] ?? 2));
  const head = ["attack", "objective", "setting", track.labelled ? `SROCC (${track.labels})` : "SROCC (clean)", "stability", "mean |shift|", "flags"];
  const body = cells.map(([index, srocc, low, high, stability, shift, flags]) => {
    const { attack, objective, setting, control } = track.attacks[index];
    return make("tr", {},
      make("td", { class: "spec" }, attack + (control ? " (control)" : ""), make("span", { class: "span near" }, `${objective}, ${setting}`)),
      make("td", { class: "far" }, objective), make("td", { class: "far" }, setting),
      make("td", { class: "num" }, number(srocc), " ", make("span", { class: "span" }, interval([srocc, low, high]))),
      make("td", { class: "num far" }, number(stability)), make("td", { class: "num" }, number(shift, 3)), make("td", { class: "flag far" }, flags.join(", ")));
  });
  const heads = head.map((name, index) => make("th", { scope: "col", class: `${[3, 4, 5].includes(index) ? "num " : ""}${[1, 2, 4, 6].includes(index) ? "far" : ""}` }, name));
  return make("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": `Attacks on ${row.name}` },
    make("table", { class: "attacks" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...body)));
}

function examples(row) {
  return make("div", { class: "examples" }, ...row.examples.map((example) => {
    const before = make("img", { src: DATA.images[example.before], alt: `Image ${example.image} before the attack` });
    const after = make("img", { src: DATA.images[example.after], alt: `Image ${example.image} after ${example.attack}` });
    const difference = make("img", { src: DATA.images[example.difference], alt: "Amplified difference of the two images", hidden: true });
    const edge = make("span", { class: "line" });
    const slider = make("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": `Image ${example.image} before and after the attack` });
    const split = () => {
      after.style.clipPath = `inset(0 0 0 ${slider.value}%)`;
      edge.style.left = `${slider.value}%`;
      slider.setAttribute("aria-valuetext", `${slider.value} % before, the rest after`);
    };
    slider.addEventListener("input", split);
    split();
    const toggle = make("button", { type: "button", "aria-pressed": "false" }, "Difference ×16");
    toggle.addEventListener("click", () => {
      difference.hidden = !difference.hidden;
      toggle.setAttribute("aria-pressed", String(!difference.hidden));
    });
    return make("figure", {}, make("div", { class: "pair" }, before, after, edge, difference), slider,
      make("figcaption", {}, `The image whose quality moved ${example.most ? "most" : "least"}: ${example.image} under ${example.attack}, quality ${number(example.clean)} → ${number(example.adv)} `, toggle));
  }));
}
