// Buttons of the card, and the table of all individuals.

const MOST_ROWS = 300;

// A page RUN/report/report.html knows its run; the folder is no part of equal reports.
function runFolder() {
  if (server) return server.run;
  const found = decodeURIComponent(location.pathname).match(/^(.*)\/report\/report\.html$/);
  return found && location.protocol === "file:" ? found[1] : "RUN";
}

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function exportCommand(name, more = "") {
  const to = `exports/${name.replace(/[^\w.-]+/g, "_")}`;
  return `python -m experiments.export ${quoted(runFolder())} --individual ${quoted(name)} --to ${to}${more}`;
}

// Why an individual cannot be exported; empty if it can.
function notExported(name) {
  if (!data.finished) return "The run is in progress: it can be exported when it is finished.";
  const kept = !data.grid || !index.has(name) || name.startsWith("expert/") || [...lastPlaces.values()].some((place) => place.number === index.get(name));
  return kept ? "" : "No archive holds it any more, so its genome was dropped and it cannot be exported.";
}

function drawButtons(name) {
  const field = el("input", { class: "copied", type: "text", readonly: true, "aria-label": "copied text", hidden: true });
  const note = el("p", { class: "note", role: "status" });
  const copy = (label, text, why) => el("button", {
    type: "button", "data-copy": text,
    click: async () => {
      field.value = text;
      field.hidden = false;
      field.select();
      try { await navigator.clipboard.writeText(text); note.textContent = `Copied: ${why}`; } catch { note.textContent = `Copy it from the field: ${why}`; }
    },
  }, label);
  const reason = notExported(name);
  const exports = reason ? [] : [
    copy("Hugging Face folder", exportCommand(name, " --no-adapter"), "the command writes the whole model."),
    copy("PEFT adapter", exportCommand(name, " --approximate"), "the command writes the adapter into the folder's adapter/, beside the model."),
    copy("Export command", exportCommand(name), "the command writes the model and, where it is exact, the adapter."),
  ];
  return el("div", {}, el("div", { class: "buttons" }, ...exports, copy("Link to this elite", linkTo(name), "the address opens this card.")),
    reason ? el("p", { class: "note" }, reason) : "", field, note);
}

const linkTo = (name) => `${location.href.split("#")[0]}#individual=${encodeURIComponent(name)}`;

function drawEveryone() {
  const rows = data.individuals.map((one) => ({ name: one.n, scores: one.s, mean: one.s.includes(null) ? null : meanOf(one.s) }));
  for (const name of data.others) {
    const scores = data.tasks.map((task) => { const values = answered(valuesOf(name, "optimise", task)); return values.length ? meanOf(values) : null; });
    rows.push({ name, scores, mean: scores.includes(null) ? null : meanOf(scores) });
  }
  const sorted = rows.sort((a, b) => (b.mean ?? -1) - (a.mean ?? -1)).slice(0, MOST_ROWS);
  const left = rows.length - sorted.length;
  byId("everyone-table").replaceChildren(
    left > 0 ? el("p", { class: "note" }, `The ${MOST_ROWS} best of ${rows.length} by their mean.`) : "",
    el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "on optimise"), ...data.tasks.map((task) => el("th", { scope: "col" }, task)), el("th", { scope: "col" }, "mean"))),
      el("tbody", {}, ...sorted.map((row) => el("tr", {}, el("td", {}, nameButton(row.name)), ...row.scores.map((score) => el("td", {}, shown(score))), el("td", { class: "best" }, shown(row.mean)))))),
  );
}
