// What all parts of the explorer share: the data, what is chosen, and safe elements.
// All scripts are one function, in the order base, maps, lineage, card, everyone, chat, start.

const readJson = (id) => JSON.parse(document.getElementById(id).textContent);
const server = readJson("explorer-server"); // null where the page was opened from a file
let data = readJson("explorer-data");
const state = { chosen: null, time: 0, axes: [] };

const byId = (id) => document.getElementById(id);
const namespace = byId("pattern").namespaceURI;

// Texts may be a model's: what would move, hide or reorder others is shown as an escape.
function plain(text) {
  return String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => {
    if (c === "\n" || c === "\t") return c;
    const code = c.codePointAt(0).toString(16);
    if (code.length <= 2) return `\\x${code.padStart(2, "0")}`;
    return code.length <= 4 ? `\\u${code.padStart(4, "0")}` : `\\U${code.padStart(8, "0")}`;
  });
}

// Children are elements or texts; a text never becomes markup.
function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat().map((c) => (c instanceof Node ? c : plain(c))));
  return made;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(namespace, tag), attributes, children);

// Derived from the data once per version of them.
let index = new Map(); // name -> number of the individual
let parents = new Map(); // name -> names of its parents, each once; of a start those of all experts
let qualityOf = (number, archive) => data.individuals[number].s[archive];
let lastPlaces = new Map();

function derive() {
  index = new Map(data.individuals.map((one, number) => [one.n, number]));
  const experts = data.individuals.slice(0, data.experts.length).map((one) => one.n);
  parents = new Map(data.individuals.map((one) => [one.n, one.start === undefined ? [...new Set(one.p || [])].map((p) => data.individuals[p].n) : experts]));
  for (const [name, champions] of Object.entries(data.merged)) parents.set(name, champions);
  lastPlaces = placesAt(lastTime());
}

const lastTime = () => data.individuals.length - data.experts.length;

// The individual behind a name: its own, another one, or a cell like "skill/7,3"; else null.
function resolve(name) {
  if (index.has(name) || data.others.includes(name)) return name;
  const behind = Object.keys(data.also).find((one) => data.also[one].includes(name));
  if (behind) return behind;
  const [, task, bins] = name.match(/^(.*)\/([\d,]+)$/) || [];
  const place = placesAt(state.time).get(`${data.tasks.indexOf(task)}/${bins}`);
  return place ? data.individuals[place.number].n : null;
}
const titleOf = (name) => [name, ...(data.also[name] || [])].join(", ");

// Cell -> who holds it after the first `time` children; a cell is "archive/bin,bin".
function placesAt(time) {
  const held = new Map();
  for (const [generation, archive, number, bins] of data.places) {
    if (generation > time) break;
    held.set(`${archive}/${bins}`, { archive, number, bins, generation });
  }
  return held;
}

// A start of the archives is a merge by a formula: a factor of the sum of all experts, or a name.
const merges = { uniform: "the mean of all experts", tsv_m: "all experts merged by tsv_m", iso_c: "all experts merged by iso_c" };
function startOf(name) {
  const one = data.individuals[index.get(name)];
  if (!one || one.start === undefined) return "";
  return merges[one.start] || (one.start === 1 ? "the sum of all experts" : `${one.start} of the sum of all experts`);
}

// Everyone from whom `name` descends, the nearest first.
function ancestorsOf(name) {
  const order = [name];
  const seen = new Set(order);
  for (const one of order) {
    for (const parent of parents.get(one) || []) {
      if (!seen.has(parent)) { seen.add(parent); order.push(parent); }
    }
  }
  return order.slice(1);
}

// Scores on one split: values in the order of its problems, null where not answered.
function valuesOf(name, split, task) {
  const row = ((data.verdicts[name] || {})[split] || {})[task];
  if (row == null) return [];
  return typeof row === "string" ? [...row].map((c) => (c === "-" ? null : Number(c))) : row;
}
const answered = (values) => values.filter((value) => value !== null);
const meanOf = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const shown = (number, digits = 3) => (number == null ? "\u2013" : number.toFixed(digits));

// Wilson's 95 % interval, as in the tables of the report.
function wilson(score, problems) {
  const spread = 1.959963984540054 ** 2 / problems;
  const centre = (score + spread / 2) / (1 + spread);
  const half = Math.sqrt(spread * (score * (1 - score) + spread / 4)) / (1 + spread);
  return [score === 0 ? 0 : Math.max(0, centre - half), score === 1 ? 1 : Math.min(1, centre + half)];
}

// 95 % interval of a mean score: Wilson's if every problem is solved or not, else, as for
// shares like those of masks, 1.96 standard errors.
function interval(values) {
  const score = meanOf(values), n = values.length;
  if (values.every((value) => value === 0 || value === 1)) return wilson(score, n);
  const squares = values.reduce((sum, value) => sum + (value - score) ** 2, 0);
  const half = n > 1 ? 1.959963984540054 * Math.sqrt(squares / (n - 1) / n) : 1;
  return [Math.max(0, score - half), Math.min(1, score + half)];
}

// The interval of a mean over skills: distances to the limits added in squares.
function meanInterval(rows) {
  const scores = rows.map(meanOf), limits = rows.map(interval);
  const centre = meanOf(scores);
  const below = Math.hypot(...scores.map((score, k) => score - limits[k][0])) / scores.length;
  const above = Math.hypot(...scores.map((score, k) => limits[k][1] - score)) / scores.length;
  return [Math.max(0, centre - below), Math.min(1, centre + above)];
}

// One line per skill: the score and how many problems it rests on.
function scoreLines(name) {
  return data.tasks.map((task, k) => {
    const values = answered(valuesOf(name, "optimise", task));
    const known = index.has(name) ? data.individuals[index.get(name)].s[k] : null;
    const score = known ?? (values.length ? meanOf(values) : null);
    return `${task} ${shown(score)}${values.length ? ` of ${values.length} problems` : ""}`;
  });
}

function say(text) { byId("said").textContent = plain(text); }

const palette = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"]; // as in the figures
function colourOf(name) {
  const one = data.individuals[index.get(name)];
  if (!one) return name === data.result ? "var(--result)" : "var(--muted)";
  const task = name.startsWith("expert/") ? data.tasks.indexOf(name.slice(7)) : one.a;
  return palette[task] || "var(--muted)";
}

// Enter and space work on everything that a click works on.
function onKeys(action) {
  return (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); action(event); }
  };
}

const nameButton = (name) => el("button", { class: "name", type: "button", click: () => choose(name, { scroll: true }) }, name);
