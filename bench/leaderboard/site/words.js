// Numbers and names as people write them, elements, and colours that follow the theme.

const DATA = JSON.parse(document.getElementById("data").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const byId = (id) => document.getElementById(id);

/** A number with a true minus; – where there is none. */
const number = (value, digits = 2) => (value == null ? "–" : value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−"));
const interval = (triple) => `[${number(triple[1])}, ${number(triple[2])}]`;
const attackName = (attack) => [attack.attack, attack.objective, attack.setting].join(", ");

/** An element with properties and children; text is never read as markup. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The colour of a kind of defense, lighter on dark paper. */
function color(kind, alpha = 1) {
  const hex = DATA.colors[kind] ?? DATA.colors.other;
  const parts = [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
  const shown = dark.matches ? parts.map((part) => Math.round(part + (255 - part) * 0.38)) : parts;
  return `rgba(${shown.join(",")},${alpha})`;
}

/** Colour of an SROCC from −1 (purple) over 0 (pale) to 1 (orange), and of the text on it. */
function heat(value) {
  if (value == null) return ["transparent", css("--dim")];
  const [low, middle, high] = [[84, 39, 136], [247, 247, 247], [179, 88, 6]];
  const share = Math.min(Math.abs(value), 1) ** 0.8;
  const end = value < 0 ? low : high;
  const mixed = middle.map((part, place) => Math.round(part + (end[place] - part) * share));
  const light = mixed.reduce((sum, part, place) => sum + [0.2126, 0.7152, 0.0722][place] * (part / 255) ** 2.2, 0);
  return [`rgb(${mixed.join(",")})`, light < 0.19 ? "#ffffff" : "#1b1f24"];  // where both contrast alike
}
