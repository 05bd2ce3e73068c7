// Shared functions: formatting of numbers and names, creation of elements, and colours that follow the theme.

const DATA = JSON.parse(document.getElementById("data").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const byId = (id) => document.getElementById(id);

/** Format a number with a minus sign (U+2212); a missing one is an en dash. */
const number = (value, digits = 2) => (value == null ? "–" : value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−"));
const interval = (triple) => `[${number(triple[1])}, ${number(triple[2])}]`;
const attackName = (attack) => [attack.attack, attack.objective, attack.setting].join(", ");

/** Create an element with properties and children; text is never parsed as markup. */
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

/** Return the colour of a kind of defense, lighter on a dark background. */
function color(kind, alpha = 1) {
  const hex = DATA.colors[kind] ?? DATA.colors.other;
  const parts = [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
  const shown = dark.matches ? parts.map((part) => Math.round(part + (255 - part) * 0.38)) : parts;
  return `rgba(${shown.join(",")},${alpha})`;
}

/** Return the colours of a cell and of the text in it, for an SROCC from −1 (purple) over 0 (pale) to 1 (orange). */
function heat(value) {
  if (value == null) return ["transparent", css("--dim")];
  const [low, middle, high] = [[84, 39, 136], [247, 247, 247], [179, 88, 6]];
  const share = Math.min(Math.abs(value), 1) ** 0.8;
  const end = value < 0 ? low : high;
  const mixed = middle.map((part, index) => Math.round(part + (end[index] - part) * share));
  const luminance = mixed.reduce((sum, part, index) => sum + [0.2126, 0.7152, 0.0722][index] * (part / 255) ** 2.2, 0);
  return [`rgb(${mixed.join(",")})`, luminance < 0.19 ? "#ffffff" : "#1b1f24"];  // at 0.19 black and white have the same contrast
}
