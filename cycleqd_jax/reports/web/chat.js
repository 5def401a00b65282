// One question to several models side by side; only where a server answers.

let running = null; // the AbortController of the question that is being answered
let wanted = new Set();

function chatModels() {
  const found = [state.chosen, "base", ...data.experts.map((expert) => `expert/${expert}`), ...Object.keys(data.merged)];
  return [...new Set(found.filter((name) => name && !notServed(name)))];
}

// An individual whose genome was dropped has no weights to answer with.
function notServed(name) {
  return data.grid && index.has(name) && !name.startsWith("expert/") && ![...lastPlaces.values()].some((place) => place.number === index.get(name));
}

function drawChat() {
  const place = byId("chat");
  if (!server) return;
  const models = chatModels();
  if (!place.firstChild) {
    wanted = new Set(models);
    place.append(el("h3", {}, "Chat"), el("p", { class: "note" }, "One question, an answer from each model. Choose an elite on a map to ask it too."),
      el("form", { submit: (event) => { event.preventDefault(); askAll(); } },
        el("fieldset", { class: "models" }, el("legend", {}, "Models")),
        el("label", { for: "question" }, "Question"), el("textarea", { id: "question" }),
        el("label", { id: "ask-key", hidden: true }, "API key of this server ", el("input", { id: "key", type: "password", autocomplete: "off" })),
        el("div", { class: "buttons" }, el("button", { id: "ask", type: "submit" }, "Ask"), " ",
          el("button", { id: "stop", type: "button", disabled: true, click: () => running && running.abort() }, "Stop"))),
      el("div", { class: "answers", id: "answers", "aria-live": "off" }));
  }
  if (state.chosen && models.includes(state.chosen)) wanted.add(state.chosen);
  place.querySelector("fieldset").replaceChildren(el("legend", {}, "Models"), ...models.map((name) => el("label", {},
    el("input", { type: "checkbox", value: name, checked: wanted.has(name), change: (event) => (event.target.checked ? wanted.add(name) : wanted.delete(name)) }), ` ${name}`)));
}

async function askAll() {
  const question = byId("question").value.trim();
  const models = chatModels().filter((name) => wanted.has(name));
  if (!question || !models.length) return say("Type a question and choose a model.");
  if (running) running.abort();
  const mine = new AbortController();
  running = mine;
  byId("stop").disabled = false;
  const boxes = models.map((name) => {
    const reply = el("pre", { "data-answer": name }), note = el("p", { class: "note", role: "status" }, "Waiting for its first words ...");
    byId("answers").append(el("div", {}, el("strong", {}, name), reply, note));
    return { name, reply, note };
  });
  byId("answers").replaceChildren(...boxes.map((box) => box.reply.parentNode));
  await Promise.all(boxes.map((box) => answer(box, question, mine.signal)));
  if (running === mine) { running = null; byId("stop").disabled = true; say(mine.signal.aborted ? "Stopped." : "All models have answered."); }
  return undefined;
}

async function answer({ name, reply, note }, question, signal) {
  let text = "", finish = null;
  try {
    const key = byId("key").value;
    const response = await fetch(server.chat, {
      method: "POST", signal,
      headers: { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) },
      body: JSON.stringify({ model: name, messages: [{ role: "user", content: question }], stream: true }),
    });
    if (response.status === 401) byId("ask-key").hidden = false;
    if (!response.ok) throw new Error(await refusal(response));
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      const choice = (event.choices || [])[0];
      if (!choice) continue;
      text += choice.delta.content || "";
      if (text) note.textContent = "";
      finish = choice.finish_reason || finish;
      reply.textContent = plain(text);
    }
    note.textContent = finish === "length" ? "Cut: there was no room for more." : "";
  } catch (error) {
    note.textContent = plain(error.name === "AbortError" ? "Stopped." : `No answer: ${error.message}`);
  }
}

async function refusal(response) {
  try { return (await response.json()).error.message; } catch { return `the server said ${response.status}`; }
}

// Server-sent events, each the JSON of one line that begins with "data: ".
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const content = line.slice(5).trim();
      if (content === "[DONE]") return;
      yield JSON.parse(content);
    }
  }
}
