// Choosing by click, key or address; the replay; and looking again while a run goes on.

const STEP = 260; // milliseconds
let playing = null;

function choose(name, { scroll = false, remember = true } = {}) {
  state.chosen = name;
  markMaps();
  drawCard();
  drawChat();
  if (name === null) return undefined;
  say(`${name} is open. ${whereHeld(name)}`);
  if (remember) {
    const hash = new URL(linkTo(name)).hash;
    if (location.hash !== hash) history.pushState(null, "", hash);
  }
  if (scroll) { byId("card-title").focus({ preventScroll: true }); byId("elite").scrollIntoView({ block: "nearest" }); }
  return undefined;
}

// #individual=child%2F7 opens a card; the address follows what is open.
function followAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("individual");
  if (wanted === null) return choose(null);
  const name = resolve(wanted);
  drawState(name === null ? ` There is no individual ${wanted} in this run.` : "");
  return choose(name, { remember: false, scroll: true });
}

function stateOfRun() {
  const done = lastTime(), search = `The search ${data.search} has evaluated ${done} of ${data.asked} children`;
  const rest = data.finished ? "." : server ? " and is in progress: this page looks again by itself." : " and was in progress when this page was made.";
  const without = data.without_verdicts ? ` The verdicts of ${data.without_verdicts} models are left out to keep the page small.` : "";
  const bounded = server || data.masks ? "" : ` Replies are a bounded part, each cut at ${data.longest} characters; python -m experiments.explore RUN shows all, and has a chat.`;
  const maps = data.grid ? "" : " There are no maps, because it keeps no archive per skill (yet).";
  return plain(search + rest + maps + without + bounded);
}

// The page of a run in progress has no tables of the report; when it is finished a new page has.
const hasReport = data.finished;
function drawState(more = "") {
  const link = el("a", { id: "show-results", href: location.href, click: (event) => { event.preventDefault(); location.reload(); } }, "show its results");
  byId("run-state").replaceChildren(stateOfRun() + plain(more), ...(data.finished && !hasReport ? [" The run has finished: ", link, "."] : []));
}

// True if a new page takes nothing from its reader: no words, no answers, nothing that is unfolded.
function isIdle() {
  const typed = ["question", "key"].some((id) => byId(id) && byId(id).value.trim());
  return running === null && !typed && !byId("chat").contains(document.activeElement) && !document.querySelector("#answers > *, #elite details[open]");
}

function drawReplay() {
  const most = lastTime(), place = byId("replay");
  place.hidden = !data.grid || most === 0;
  const slider = el("input", { type: "range", id: "time", min: 0, max: most, value: state.time, "aria-label": "children evaluated",
    input: (event) => { stop(); setTime(Number(event.target.value)); } });
  const play = el("button", { type: "button", id: "play", click: () => (playing === null ? start() : stop()) }, "Replay");
  place.replaceChildren(play, slider, el("output", { id: "when", for: "time" }), drawKey());
  showTime();
}

function drawKey() {
  const ramp = el("span", { class: "ramp", style: `background:linear-gradient(to right,${viridis.join(",")})` });
  return el("div", { class: "key" }, el("span", {}, "score on the archive's own skill 0", ramp, "1"), el("span", {}, "star: expert"), el("span", {}, "red ring: champion"), el("span", {}, "dashed: ancestor of the open elite"));
}

function showTime() {
  const time = state.time, took = data.places.filter((place) => place[0] === time).map((place) => data.tasks[place[1]]);
  const what = time === 0 ? "the experts alone" : `${data.individuals[data.experts.length + time - 1].n}, ${took.length ? `taken by the archive${took.length > 1 ? "s" : ""} of ${took.join(", ")}` : "taken by no archive"}`;
  byId("when").textContent = plain(`after ${time} of ${lastTime()} children: ${what}`);
  byId("time").setAttribute("aria-valuetext", byId("when").textContent);
}

function setTime(time) {
  state.time = time;
  byId("time").value = time;
  showTime();
  drawMaps();
  if (state.chosen) byId("elite").querySelector(".card > .note").textContent = plain(whereHeld(state.chosen));
}

function start() {
  if (state.time >= lastTime()) setTime(0);
  byId("play").textContent = "Pause";
  playing = setInterval(() => (state.time < lastTime() ? setTime(state.time + 1) : stop()), STEP);
}

function stop() {
  clearInterval(playing);
  playing = null;
  byId("play").textContent = "Replay";
}

function drawAll() {
  derive();
  drawState();
  drawReplay();
  drawMaps();
  drawEveryone();
  byId("everyone").open = byId("everyone").open || !data.grid;
}

// A run in progress: takes what is new and leaves what is open as it is.
async function lookAgain() {
  if (data.finished) return isIdle() ? location.reload() : undefined;
  try {
    const fresh = await ask(server.data);
    if (JSON.stringify(fresh) === JSON.stringify(data)) return undefined;
    const atEnd = state.time === lastTime();
    const open = new Set([...document.querySelectorAll("#elite details[open]")].map((one) => one.dataset.against));
    data = fresh;
    fetched.clear();
    if (atEnd) state.time = lastTime();
    drawAll();
    if (state.chosen && !open.size) drawCard();
    if (data.finished && isIdle()) location.reload();
  } catch (error) {
    drawState(` The server did not answer just now (${error.message}).`);
  }
  return undefined;
}

// Escape closes the card from everywhere but the chat and lists, where it has another use.
function close() {
  const name = state.chosen, inside = byId("elite").contains(document.activeElement);
  history.pushState(null, "", location.pathname + location.search);
  choose(null);
  const cell = [...document.querySelectorAll(".cell")].find((one) => one.dataset.all.split("\n").includes(name));
  if (inside && cell) { stopAt(cell); cell.focus(); }
  hideTooltip();
}
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.target.closest("#chat, select")) return;
  hideTooltip();
  if (state.chosen) close();
});
derive();
state.time = lastTime();
drawAll();
drawChat();
followAddress();
window.addEventListener("hashchange", followAddress);
window.addEventListener("popstate", followAddress);
if (server && !data.finished) setInterval(lookAgain, server.look_again_ms);
