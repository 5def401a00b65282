// The card of the chosen individual: scores, experts' shares, parents, commands, problems.

function drawCard() {
  const name = state.chosen, place = byId("elite");
  if (!name) return place.replaceChildren();
  const also = (data.also[name] || []).join(", ");
  const card = el("article", { class: "card", "aria-labelledby": "card-title" },
    el("h3", { id: "card-title", tabindex: -1 }, name, also ? el("small", { class: "note" }, ` also ${also}`) : ""),
    el("p", { class: "note" }, whereHeld(name)), drawButtons(name),
    el("div", { class: "scroll" }, drawScores(name)),
    el("h3", {}, "Ancestors"), drawLineage(name),
    el("h3", {}, "Experts' shares by layers"), el("div", { class: "scroll" }, drawShares(name)),
    ...drawParents(name), ...drawTest(name));
  place.replaceChildren(card);
  return undefined;
}

function whereHeld(name) {
  const number = index.get(name);
  const found = [...placesAt(state.time).values()].filter((place) => place.number === number);
  const cells = found.sort((a, b) => a.archive - b.archive).map((place) => `${data.tasks[place.archive]}/${place.bins}`);
  const result = name === data.result ? "It is the result of the run. " : "";
  const held = result + (cells.length ? `It holds the cell${cells.length > 1 ? "s" : ""} ${cells.join(" and ")}.` : data.grid && number !== undefined ? "No archive holds it at this time." : "");
  return data.individuals[number]?.i ? `${held} Its evaluation was given up before all problems were answered.` : held;
}

const splitsOf = (name) => ["test", "validate", "optimise"].filter((split) => data.verdicts[name] && data.verdicts[name][split]);

function drawScores(name) {
  const splits = splitsOf(name);
  if (!splits.length) return el("p", { class: "note" }, `On optimise: ${scoreLines(name).join(", ")}. Its single verdicts are not in this page.`);
  const cell = (score, [low, high], count) => el("td", {}, shown(score), el("small", {}, `${shown(low, 2)} \u2013 ${shown(high, 2)} of ${count}`));
  const scores = splits.map((split) => data.tasks.map((task) => answered(valuesOf(name, split, task))));
  const rows = data.tasks.map((task, k) => el("tr", {}, el("th", { scope: "row" }, task),
    ...scores.map((row) => (row[k].length ? cell(meanOf(row[k]), interval(row[k]), row[k].length) : el("td", {}, "\u2013")))));
  const means = scores.map((row) => {
    if (!row.every((values) => values.length)) return el("td", {}, "\u2013");
    const count = row.reduce((sum, values) => sum + values.length, 0);
    return cell(meanOf(row.map(meanOf)), meanInterval(row), count);
  });
  return el("table", { "data-scores": "" }, el("caption", { class: "hidden" }, `scores of ${name} with 95 % intervals and numbers of problems`),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "skill"), ...splits.map((split) => el("th", { scope: "col" }, split)))),
    el("tbody", {}, ...rows, el("tr", { class: name === data.result ? "result" : "mean" }, el("td", {}, "mean"), ...means)));
}

// By crossover alone: a child has the weighted mean of its parents' shares, a start its factor.
function crossed(name, known = new Map()) {
  if (known.has(name)) return known.get(name);
  known.set(name, null);
  if (name.startsWith("expert/")) known.set(name, data.experts.map((expert) => Number(`expert/${expert}` === name)));
  const one = data.individuals[index.get(name)];
  if (one && (typeof one.start === "number" || one.start === "uniform")) known.set(name, data.experts.map(() => (one.start === "uniform" ? 1 / data.experts.length : one.start)));
  if (one && one.p && one.w.every((weight) => weight !== null)) {
    const [a, b] = one.p.map((p) => crossed(data.individuals[p].n, known)), [v, w] = one.w;
    if (a && b) known.set(name, a.map((share, k) => (v * share + w * b[k]) / (v + w)));
  }
  return known.get(name);
}

function drawShares(name) {
  const byGroup = data.shares[name], plainShares = byGroup ? null : crossed(name);
  if (!byGroup && !plainShares) return el("p", { class: "note" }, `Not known: ${withoutShares(name)}.`);
  const groups = byGroup ? Object.entries(byGroup) : [[startOf(name) ? "all layers" : "all layers, by crossover alone", plainShares]];
  const cell = (share) => el("td", {}, shown(share, 2), el("span", { class: "bar", style: `width:${Math.min(Math.abs(share), 1.5) * 44}px` }));
  return el("table", {}, el("caption", { class: "hidden" }, "how much of each expert's change of the base model it holds"),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "layers"), ...data.experts.map((expert) => el("th", { scope: "col" }, expert)))),
    el("tbody", {}, ...groups.map(([group, shares]) => el("tr", {}, el("th", { scope: "row" }, group), ...shares.map(cell)))));
}

// Why the page has no shares by layers of a model, as half a sentence.
function withoutShares(name) {
  if (!Object.keys(data.shares).length) return "the page of this run has no shares, because its checkpoint is missing or too large, or its basis is of another kind";
  if (!index.has(name)) return "the page has shares of individuals and of their average alone";
  const held = [...lastPlaces.values()].some((place) => place.number === index.get(name));
  if (held && !data.finished) return "the newest checkpoint does not hold it yet";
  return data.grid ? "no archive holds it any more, so its genome was dropped" : "the run has dropped its genome";
}

// How two tables of shares by layers differ: the largest changes first, as text.
function changesBetween(own, other) {
  const found = Object.entries(own).flatMap(([group, shares]) => shares.map((share, k) => [share - other[group][k], data.experts[k], group]));
  const large = found.filter(([change]) => Math.abs(change) >= 0.005).sort((a, b) => Math.abs(b[0]) - Math.abs(a[0]));
  const texts = large.slice(0, 5).map(([change, expert, group]) => `${change > 0 ? "+" : "\u2212"}${Math.abs(change).toFixed(2)} of ${expert} in ${group}`);
  const more = large.length > 5 ? `, and ${large.length - 5} smaller changes` : "";
  return { text: texts.join(", ") + more, distance: found.reduce((sum, [change]) => sum + Math.abs(change), 0) };
}

// What changed from the parents: beyond their weighted mean, or where a crossover has no weights against each;
// sentences, never none.
function whatChanged(one) {
  const own = data.shares[one.n], names = parents.get(one.n), weighted = one.w.every((weight) => weight !== null);
  if (!own) return [`What changed in its layers is not known: ${withoutShares(one.n)}.`];
  const known = names.filter((parent) => data.shares[parent]), gone = names.filter((parent) => !data.shares[parent]);
  if (weighted && !gone.length) {
    const [a, b] = one.p.map((p) => data.shares[data.individuals[p].n]), [v, w] = one.w;
    const mean = Object.fromEntries(Object.keys(own).map((group) => [group, a[group].map((share, k) => (v * share + w * b[group][k]) / (v + w))]));
    const { text } = changesBetween(own, mean);
    return [text ? `Beyond the mean of its parents: ${text}.` : "It holds no more of any expert than the mean of its parents."];
  }
  const each = known.map((parent) => ({ parent, ...changesBetween(own, data.shares[parent]) })).sort((a, b) => a.distance - b.distance);
  const said = each.map(({ parent, text }, place) => `Against ${parent}${each.length > 1 && !place ? ", the nearer parent" : ""}: ${text || "no change"}.`);
  return [...(weighted ? [] : ["This crossover records no weights of parents, so it is compared with each."]), ...said,
    ...gone.map((parent) => `The shares of ${parent} are not known: ${withoutShares(parent)}.`)];
}

function howMade(one) {
  const total = one.w.reduce((a, b) => a + (b || 0), 0);
  const weights = one.p.map((p, side) => `${data.individuals[p].n}${one.w[side] === null || !total ? "" : ` (${Math.round((100 * one.w[side]) / total)} %)`}`);
  const { crossover, mutation } = data.operators || {};
  const by = !data.operators ? "" : ` by the crossover ${crossover}, ${mutation === "none" ? "without a mutation" : `then changed by the mutation ${mutation}`}`;
  const drawn = one.a === undefined ? "" : ` Parents were drawn from the archive of ${data.tasks[one.a]}.`;
  return `Crossed from ${weights.join(" and ")}${by}.${drawn}`;
}

function drawParents(name) {
  const found = parents.get(name) || [], one = data.individuals[index.get(name)], start = startOf(name);
  if (!found.length) return [];
  const parts = [el("h3", {}, start ? "A start of the archives" : data.merged[name] ? "Made of the champions" : "Parents and what changed")];
  if (start) parts.push(el("p", {}, `It was not bred: it is ${start}, as the setting qd.seeds says.`));
  else if (one) parts.push(el("div", { "data-changed": "" }, ...[howMade(one), ...whatChanged(one)].map((sentence) => el("p", {}, sentence))));
  return [...parts, ...found.map((parent) => drawAgainst(name, parent, "optimise"))];
}

// Few parents were evaluated on test; base and experts mostly are.
function drawTest(name) {
  const usual = ["base", ...data.experts.map((expert) => `expert/${expert}`)];
  const has = (one) => data.verdicts[one] && data.verdicts[one].test;
  const others = [...new Set([...(parents.get(name) || []), ...usual])].filter((one) => one !== name && has(one));
  if (!has(name) || !others.length) return [];
  return [el("h3", {}, "Side by side on test"), ...others.map((other) => drawAgainst(name, other, "test"))];
}

function drawAgainst(name, parent, split) {
  const won = [], lost = [];
  let compared = 0;
  const gaps = data.tasks.map((task) => {
    const ours = valuesOf(name, split, task), theirs = valuesOf(parent, split, task), differences = [];
    ours.forEach((score, k) => {
      if (score === null || theirs[k] == null) return;
      differences.push(score - theirs[k]);
      if (score !== theirs[k]) (score > theirs[k] ? won : lost).push([task, data.problems[split][task][k]]);
    });
    compared += differences.length;
    return differences.length ? `${task} ${meanOf(differences) < 0 ? "\u2212" : "+"}${Math.abs(meanOf(differences)).toFixed(3)}` : `${task} \u2013`;
  });
  const list = (title, kind, problems) => problems.length ? el("div", {}, el("strong", { class: kind }, title), ...problems.map(([task, problem]) => drawProblem(name, parent, split, task, problem))) : "";
  return el("details", { "data-against": parent, "data-split": split },
    el("summary", {}, `against ${parent}: ${compared ? `${won.length} won, ${lost.length} lost of ${compared} problems of ${split} (${gaps.join(", ")})` : "verdicts are not in this page"}`),
    nameButton(parent), list("won", "ok", won), list("lost", "no", lost));
}

function drawProblem(name, parent, split, task, problem) {
  const box = el("details", { class: "problem" }, el("summary", {}, problem));
  box.addEventListener("toggle", async () => {
    if (!box.open || box.children.length > 1) return;
    const pair = el("div", { class: "pair" });
    box.append(pair);
    try {
      const [asked, ...sides] = await Promise.all([questionOf(task, problem), repliesOf(name), repliesOf(parent)]);
      pair.before(...drawQuestion(asked));
      pair.append(...sides.map((replies, side) => drawReply([name, parent][side], ((replies[split] || {})[task] || {})[problem])));
    } catch (error) {
      pair.append(el("p", { class: "no" }, `The replies did not come: ${error.message}`));
    }
  });
  return box;
}

function drawQuestion(asked) {
  if (data.masks) return []; // an image is no question
  if (asked.text === undefined) return [el("p", { class: "note" }, `The question is not shown: ${asked.why}.`)];
  return [el("p", { class: "question" }, el("strong", {}, "Question: "), asked.text)];
}

function drawReply(name, texts) {
  if (!texts) return el("div", {}, el("strong", {}, name), el("p", { class: "note" }, "This reply is not in the page, which holds a bounded part of them. python -m experiments.explore RUN shows all."));
  const [outcome, reply, explanation] = texts, kind = { solved: "ok", scored: "" }[outcome] ?? "no";
  return el("div", {}, el("strong", {}, `${name}: `, el("span", { class: kind }, outcome)), el("pre", {}, reply), el("p", { class: "note" }, explanation));
}

// Replies by split, task and problem: from the server, once each, or from the page itself.
const fetched = new Map();
function repliesOf(name) {
  if (!server) {
    const each = (object, change) => Object.fromEntries(Object.entries(object || {}).map(([key, value]) => [key, change(value)]));
    return each(data.replies[name], (tasks) => each(tasks, (own) => each(own, (places) => places.map((place) => data.texts[place]))));
  }
  if (!fetched.has(name)) fetched.set(name, ask(`${server.replies}?individual=${encodeURIComponent(name)}`).catch((error) => { fetched.delete(name); throw error; }));
  return fetched.get(name);
}

// The text of a question, or why there is none: from the server, or from the page itself.
async function questionOf(task, problem) {
  const own = (data.questions[task] || {})[problem];
  if (data.masks) return {};
  if (!server) return own === undefined ? { why: data.unasked[task] || "the page holds a bounded part of them, and python -m experiments.explore RUN shows all" } : { text: own };
  const key = `${task}\n${problem}`;
  if (!fetched.has(key)) fetched.set(key, ask(`${server.question}?task=${encodeURIComponent(task)}&problem=${encodeURIComponent(problem)}`).catch((error) => { fetched.delete(key); return { why: error.message }; }));
  return fetched.get(key);
}

async function ask(address) {
  const reply = await fetch(address);
  if (!reply.ok) throw new Error(`the server said ${reply.status}`);
  return reply.json();
}
