// One heat map per archive. With more than two behaviours its reader says which two are
// the axes, and a cell shows the best elite over all others.

const viridis = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const SIDE = 300, LEFT = 44, TOP = 8, STRIP = 48;

function heat(score) {
  const place = Math.min(Math.max(score, 0), 1) * (viridis.length - 1);
  const low = Math.floor(place), high = Math.min(low + 1, viridis.length - 1);
  const part = (hex, at) => parseInt(hex.slice(at, at + 2), 16);
  const mix = [1, 3, 5].map((at) => Math.round(part(viridis[low], at) * (1 - place + low) + part(viridis[high], at) * (place - low)));
  return `rgb(${mix.join(",")})`;
}

function drawMaps() {
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.cell : null;
  hideTooltip();
  byId("maps").replaceChildren();
  if (!data.grid) return;
  const held = [...placesAt(state.time).values()];
  data.tasks.forEach((task, archive) => {
    byId("maps").append(drawMap(task, archive, held.filter((place) => place.archive === archive)));
  });
  markMaps();
  const again = focused && document.querySelector(`[data-cell="${CSS.escape(focused)}"]`);
  if (again) again.focus({ preventScroll: true });
}

function drawMap(task, archive, held) {
  const dimensions = data.grid.dimensions[archive];
  const axes = state.axes[archive] || (state.axes[archive] = [0, 1].slice(0, dimensions.length));
  const cells = new Map();
  for (const place of held) {
    const at = axes.map((axis) => place.bins[axis]).join();
    const before = cells.get(at) || [];
    before.push(place);
    cells.set(at, before);
  }
  const elites = `${held.length} ${held.length === 1 ? "elite" : "elites"}`;
  const many = dimensions.length > 2 ? ", the best over all other scores" : "";
  const caption = el("figcaption", {}, `${task} `, el("small", {}, held.length ? `${elites}${many}` : "no elites yet"));
  const parts = [caption];
  if (dimensions.length > 2) parts.push(axesControls(task, archive, axes, dimensions));
  return el("figure", {}, ...parts, drawGrid(task, archive, axes, dimensions, cells));
}

function axesControls(task, archive, axes, dimensions) {
  const select = (which, text) => el("label", {}, `${text} `, el("select", {
    "aria-label": `${text}, map of ${task}`,
    change: (event) => {
      const wanted = Number(event.target.value);
      if (axes[1 - which] === wanted) axes[1 - which] = axes[which];
      axes[which] = wanted;
      drawMaps();
      document.querySelectorAll(`[data-axes="${archive}"] select`)[which].focus();
    },
  }, ...dimensions.map(([label], number) => el("option", { value: number, selected: number === axes[which] }, label))));
  return el("div", { class: "axes", "data-axes": archive }, select(0, "across"), select(1, "up"));
}

function drawGrid(task, archive, axes, dimensions, cells) {
  const bins = data.grid.bins, flat = axes.length === 1;
  const high = flat ? STRIP : SIDE, wide = SIDE / bins, tall = flat ? STRIP : SIDE / bins;
  const [across, up] = axes.map((axis) => dimensions[axis]);
  const root = svg("svg", {
    class: "map", viewBox: `0 0 ${LEFT + SIDE + 10} ${TOP + high + 36}`, role: "group",
    "aria-label": `archive of ${task}: ${cells.size} of ${bins ** axes.length} cells shown are taken; arrow keys move between them`,
  }, svg("rect", { class: "ground", x: LEFT, y: TOP, width: SIDE, height: high }));
  let lines = "";
  for (let i = 1; i < bins; i += 1) {
    lines += `M${LEFT + i * wide} ${TOP}v${high}`;
    if (!flat) lines += `M${LEFT} ${TOP + i * tall}h${SIDE}`;
  }
  root.append(svg("path", { class: "lines", d: lines }));
  const text = (x, y, anchor, label) => svg("text", { x, y, "text-anchor": anchor, "aria-hidden": "true" }, label);
  root.append(
    text(LEFT, TOP + high + 15, "start", shown(across[1], 2)),
    text(LEFT + SIDE, TOP + high + 15, "end", shown(across[2], 2)),
    text(LEFT + SIDE / 2, TOP + high + 30, "middle", `${short(across[0])} \u2192`),
  );
  if (!flat) {
    root.append(
      text(LEFT - 5, TOP + high, "end", shown(up[1], 2)), text(LEFT - 5, TOP + 11, "end", shown(up[2], 2)),
      svg("text", { x: 12, y: TOP + high / 2, "text-anchor": "middle", "aria-hidden": "true", transform: `rotate(-90 12 ${TOP + high / 2})` }, `${short(up[0])} \u2192`),
    );
  }
  // From the lower left to the upper right, as Tab and screen readers read them.
  const order = [...cells.keys()].sort((a, b) => { const [x, y] = a.split(",").map(Number), [u, v] = b.split(",").map(Number); return (y || 0) - (v || 0) || x - u; });
  for (const at of order) {
    const [x, y = 0] = at.split(",").map(Number);
    root.append(drawCell(archive, at, cells.get(at), [LEFT + x * wide, TOP + high - (y + 1) * tall, wide, tall]));
  }
  if (root.querySelector(".cell")) root.querySelector(".cell").setAttribute("tabindex", 0);
  return root;
}

const short = (text) => (text.length > 34 ? `${text.slice(0, 33)}\u2026` : text);

function drawCell(archive, at, places, [x, y, width, height]) {
  const best = places.reduce((a, b) => (qualityOf(b.number, archive) > qualityOf(a.number, archive) ? b : a));
  const name = data.individuals[best.number].n, champion = (data.also[name] || []).includes(`champion/${data.tasks[archive]}`);
  const others = places.length > 1 ? `; best of ${places.length} elites here` : "";
  const what = name.startsWith("expert/") ? ", an expert" : champion ? ", a champion" : "";
  const cell = svg("g", {
    class: "cell", role: "button", tabindex: -1, "data-cell": `${archive}/${at}`, "data-name": name, "data-fresh": best.generation,
    "data-all": places.map((place) => data.individuals[place.number].n).join("\n"),
    "aria-label": `${titleOf(name)}${what}: ${scoreLines(name).join(", ")}${others}`,
    click: () => choose(name), keydown: (event) => moveOrChoose(event, cell, name),
    pointerenter: () => showTooltip(cell, name, others), pointerleave: hideTooltip,
    focus: () => showTooltip(cell, name, others), blur: hideTooltip,
  }, svg("rect", { class: "square", x, y, width, height, fill: heat(qualityOf(best.number, archive)) }));
  const cx = x + width / 2, cy = y + height / 2, r = Math.min(width * 0.42, height * 0.42, 10);
  if (name.startsWith("expert/")) {
    const points = [...Array(10).keys()].map((i) => { const a = Math.PI * (i / 5 - 0.5), s = i % 2 ? r * 0.42 : r; return `${cx + s * Math.cos(a)},${cy + s * Math.sin(a)}`; });
    cell.append(svg("polygon", { class: "star", points: points.join(" ") }));
  }
  if (champion) cell.append(svg("circle", { class: "ring", cx, cy, r }));
  cell.append(svg("rect", { class: "halo", x: x + 1, y: y + 1, width: width - 2, height: height - 2 }));
  return cell;
}

// Arrow keys go to the nearest taken cell in their direction; one cell per map is a tab stop.
function moveOrChoose(event, cell, name) {
  const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (!step) return onKeys(() => choose(name))(event);
  event.preventDefault();
  const place = (one) => { const [x, y = 0] = one.dataset.cell.split("/")[1].split(",").map(Number); return [x, y]; };
  const [x, y] = place(cell);
  let nearest = null, least = Infinity;
  for (const other of cell.parentNode.querySelectorAll(".cell")) {
    const [u, v] = place(other), along = (u - x) * step[0] + (v - y) * step[1], aside = Math.abs((u - x) * step[1]) + Math.abs((v - y) * step[0]);
    if (along > 0 && along + 2 * aside < least) { least = along + 2 * aside; nearest = other; }
  }
  if (nearest) { stopAt(nearest); nearest.focus(); }
  return undefined;
}

function stopAt(cell) {
  cell.parentNode.querySelectorAll(".cell").forEach((one) => one.setAttribute("tabindex", one === cell ? 0 : -1));
}

// Shows who is chosen in every archive that holds it, and its ancestors; keeps the focus.
function markMaps() {
  const ancestors = new Set(state.chosen ? ancestorsOf(state.chosen) : []);
  byId("maps").classList.toggle("has-choice", state.chosen !== null && state.chosen !== undefined);
  for (const cell of document.querySelectorAll(".cell")) {
    const all = cell.dataset.all.split("\n"), chosen = all.includes(state.chosen);
    cell.classList.toggle("chosen", chosen);
    cell.classList.toggle("ancestor", !chosen && all.some((name) => ancestors.has(name)));
    cell.classList.toggle("fresh", state.time < lastTime() && Number(cell.dataset.fresh) === state.time && state.time > 0);
    cell.setAttribute("aria-pressed", chosen);
    if (chosen) stopAt(cell);
  }
}

function showTooltip(cell, name, others) {
  const box = byId("tooltip"), at = cell.getBoundingClientRect();
  box.replaceChildren(el("strong", {}, titleOf(name)), ...scoreLines(name).map((line) => el("div", {}, line)), el("div", {}, others.slice(2)));
  box.hidden = false;
  const left = Math.min(at.right + 8, document.documentElement.clientWidth - box.offsetWidth - 8);
  box.style.left = `${Math.max(left, 8) + window.scrollX}px`;
  const above = at.top - box.offsetHeight - 8;
  box.style.top = `${(above > 0 ? above : at.bottom + 8) + window.scrollY}px`;
}

function hideTooltip() { byId("tooltip").hidden = true; }
