// The ancestors of the chosen individual, from the experts on the left to it on the right.

const MOST_ANCESTORS = 60, NODE = [92, 24], GAP = [44, 12];

function drawLineage(name) {
  const all = ancestorsOf(name);
  if (!all.length) return el("p", { class: "note" }, withoutParents(name));
  const experts = all.filter((one) => one.startsWith("expert/"));
  const near = all.filter((one) => !one.startsWith("expert/")).slice(0, MOST_ANCESTORS);
  const members = new Set([...experts, ...near, name]);
  const ordered = [...members].sort((a, b) => (index.get(a) ?? Infinity) - (index.get(b) ?? Infinity));
  const depth = new Map();
  for (const one of ordered) {
    const known = (parents.get(one) || []).filter((parent) => members.has(parent));
    depth.set(one, one.startsWith("expert/") ? 0 : 1 + Math.max(0, ...known.map((parent) => depth.get(parent) || 0)));
  }
  const columns = [];
  for (const one of ordered) (columns[depth.get(one)] ||= []).push(one);
  const rows = columns.filter(Boolean);
  const tallest = Math.max(...rows.map((column) => column.length));
  const width = rows.length * (NODE[0] + GAP[0]) - GAP[0] + 8, height = tallest * (NODE[1] + GAP[1]) + 4;
  const places = new Map();
  rows.forEach((column, x) => {
    const wish = (one) => { const ys = (parents.get(one) || []).map((p) => places.get(p)).filter(Boolean).map((at) => at[1]); return ys.length ? meanOf(ys) : 0; };
    const sorted = x ? [...column].sort((a, b) => wish(a) - wish(b)) : column;
    sorted.forEach((one, y) => places.set(one, [4 + x * (NODE[0] + GAP[0]), ((y + 0.5) * height) / sorted.length - NODE[1] / 2]));
  });
  const tree = svg("svg", { class: "tree", width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `ancestors of ${name}, experts first` });
  for (const one of ordered) {
    for (const parent of parents.get(one) || []) {
      if (!places.has(parent)) continue;
      const [x1, y1] = places.get(parent), [x2, y2] = places.get(one);
      const from = [x1 + NODE[0], y1 + NODE[1] / 2], to = [x2, y2 + NODE[1] / 2], middle = (from[0] + to[0]) / 2;
      tree.append(svg("path", { class: "link", d: `M${from}C${middle} ${from[1]} ${middle} ${to[1]} ${to}`, stroke: colourOf(parent) }));
    }
  }
  for (const one of ordered) tree.append(drawNode(one, places.get(one), one === name));
  const left = all.length - experts.length - near.length;
  const note = left > 0 ? `${left} older ancestors are not shown. ` : "";
  const starts = ordered.filter(startOf).map((one) => `${one} is a start: ${startOf(one)}. `);
  const colours = ordered.some((one) => (data.individuals[index.get(one)] || {}).a !== undefined) ? "A child has the colour of the skill from whose archive its parents were drawn." : "";
  return el("div", {}, el("div", { class: "scroll" }, tree), el("p", { class: "note" }, `${note}${starts.join("")}${colours}`));
}

function withoutParents(name) {
  if (name.startsWith("expert/")) return "An expert: it has no ancestors.";
  if (name === "base") return "The base model: it has no ancestors.";
  if (name === "uniform_merge") return "The mean of all experts, made without a search.";
  if (name === "scaled_merge") return "The sum of all experts times a factor, made without a search.";
  return `The search ${data.search} has recorded no parents of it.`;
}

function drawNode(name, [x, y], here) {
  const label = name.replace(/^expert\//, ""), start = startOf(name) ? `a start: ${startOf(name)}` : "";
  const parts = [svg("title", {}, [titleOf(name), start, ...scoreLines(name)].filter(Boolean).join("\n")),
    svg("rect", { x, y, width: NODE[0], height: NODE[1], rx: 6, stroke: colourOf(name) }),
    svg("text", { x: x + NODE[0] / 2, y: y + 16 }, label.length > 14 ? `${label.slice(0, 13)}\u2026` : label)];
  const open = () => choose(name, { scroll: true });
  return svg("g", {
    class: `node${here ? " here" : ""}${start ? " start" : ""}`, role: "button", tabindex: 0, "data-node": name, click: open, keydown: onKeys(open),
    "aria-label": `${titleOf(name)}${start && `, ${start}`}: ${scoreLines(name).join(", ")}`, "aria-current": here,
  }, ...parts);
}
