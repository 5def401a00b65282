"""The explorer in a real browser: as a file, and with a server."""

import asyncio
import json
import re
from time import sleep

import asking_task
import browser
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import run_contents

from cycleqd_jax import files
from cycleqd_jax.reports import build, replies, statistics
from cycleqd_jax.reports.population import read_population
from cycleqd_jax.runs.opened import open_run

HOSTILE = (
    "</script><script>document.title='owned'</script>"
    "<img src=x onerror=\"document.title='owned'\">\x1b[2J\u202e\x00 <b>bold</b>"
)
SHOWN = (
    HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e").replace("\0", "\\x00")
)


@pytest.fixture(scope="module")
def tab():
    with browser.open_browser() as page:
        yield page


def hostile(run):
    """Every reply and explanation of a run tries to be more than a text."""
    for path in (run / "results").glob("*.parquet"):
        table = pq.read_table(path)
        for column in ("reply", "explanation"):
            place = table.column_names.index(column)
            values = pa.array([HOSTILE] * table.num_rows)
            table = table.set_column(place, column, values)
        pq.write_table(table, path)
    run_contents.seal(run)


@pytest.fixture(scope="module")
def run(fabricate):
    run = fabricate()
    hostile(run)
    build.write_report(run)
    return run


@pytest.fixture(scope="module")
def population(run):
    return read_population(open_run(run))


@pytest.fixture
def page(run):
    return run / "report" / "report.html"


def cells(tab, name):
    return tab.run(
        "return [...document.querySelectorAll('.cell')].filter(c => "
        "c.dataset.all.split('\\n').includes(arguments[0])).map(c => c.dataset.cell)",
        name,
    )


def chosen(tab):
    return tab.run(
        "return [...document.querySelectorAll('.cell.chosen')].map(c => c.dataset.cell)"
    )


def test_it_shows_every_archive_with_all_elites(tab, page, population):
    tab.open(page)
    assert len(tab.all("#maps figure")) == 3
    held = population.elites()
    want = {f"{k}/{','.join(map(str, bins))}": name for (k, bins), name in held.items()}
    got = tab.run(
        "return Object.fromEntries([...document.querySelectorAll('.cell')]"
        ".map(c => [c.dataset.cell, c.dataset.name]))"
    )
    assert got == want
    assert "has evaluated 14 of 14 children" in tab.text("#run-state")
    assert tab.complaints() == []


def test_hovering_shows_scores_and_numbers_of_problems(tab, page, population):
    from selenium.webdriver import ActionChains

    tab.open(page)
    cell = tab.one('.cell[data-name="expert/skill_b"]')
    ActionChains(tab.driver).move_to_element(cell).perform()
    shown = tab.one("#tooltip")
    assert shown.is_displayed()
    own = population.scores["expert/skill_b"]["optimise"]["skill_b"]
    score = sum(own.values()) / len(own)
    assert f"skill_b {score:.3f} of 12 problems" in shown.text
    assert shown.text.startswith("expert/skill_b")


def test_a_click_lights_an_elite_up_and_opens_its_card(tab, page, population):
    tab.open(page)
    name = next(n for n in reversed(population.names) if len(set(cells(tab, n))) > 1)
    tab.one(f'.cell[data-name="{name}"]').click()
    assert sorted(chosen(tab)) == sorted(cells(tab, name)) and len(chosen(tab)) > 1
    assert tab.text("#card-title").startswith(name)
    # Scores and intervals are those of the report.
    row = tab.text("[data-scores] tbody tr:first-child")
    own = population.scores[name]["optimise"]["skill_a"].values()
    score = sum(own) / len(own)
    low, high = statistics.wilson(score, len(own))
    assert f"{score:.3f}{low:.2f} \u2013 {high:.2f} of 12" in row
    means = [
        sum(s.values()) / len(s) for s in population.scores[name]["optimise"].values()
    ]
    low, high = statistics.mean_interval(means, [12] * 3)
    want = f"{sum(means) / 3:.3f}{low:.2f} \u2013 {high:.2f} of 36"
    assert want in tab.text("[data-scores] tr.mean")
    assert not tab.all("[data-scores] tr.result")  # red is for the result alone
    # Its ancestors, down to experts.
    nodes = tab.run(
        "return [...document.querySelectorAll('[data-node]')].map(n => n.dataset.node)"
    )
    found, order = {name}, [name]
    by_name = {child.name: child.parents for child in population.children}
    for one in order:
        fresh = set(by_name.get(one, ())) - found
        found |= fresh
        order += sorted(fresh)
    assert set(nodes) == found and len(nodes) == len(found)
    ancestors = tab.run(
        "return [...document.querySelectorAll('.cell.ancestor')]"
        ".map(c => c.dataset.name)"
    )
    assert set(ancestors) <= found - {name}
    # The address leads back to it, and Back closes it.
    address = tab.driver.current_url
    assert address.endswith(f"#individual={name.replace('/', '%2F')}")
    tab.driver.back()
    tab.wait(lambda: not tab.all(".card"))
    assert tab.complaints() == []


def test_a_link_opens_an_elite_under_any_of_its_names(tab, page, population):
    champions = population.opened.facts.aggregation
    tab.open(page, fragment="#individual=champion%2Fskill_b")
    assert tab.text("#card-title").startswith(champions["skill_b"].individual)
    (archive, bins), name = next(iter(population.elites().items()))
    cell = f"{population.opened.tasks[archive]}/{','.join(map(str, bins))}"
    tab.open(page, fragment=f"#individual={cell}")
    assert tab.text("#card-title").startswith(name)
    tab.open(page, fragment="#individual=aggregated")
    assert "Made of the champions" in tab.text(".card")
    assert "It is the result of the run." in tab.text(".card")
    assert tab.text("[data-scores] tr.result").startswith("mean")
    tab.open(page, fragment="#individual=<b>child/99")
    assert not tab.all(".card")
    assert "no individual <b>child/99" in tab.text("#run-state")
    assert not tab.all("#run-state b")


def test_all_of_it_works_with_the_keyboard(tab, page):
    from selenium.webdriver import Keys

    tab.open(page)
    stops = tab.all('.cell[tabindex="0"]')
    assert len(stops) == 3  # one per map
    stops[0].send_keys(Keys.ARROW_RIGHT)
    first = stops[0].get_attribute("data-cell")
    now = tab.driver.switch_to.active_element
    x, nx = (
        int(c.split("/")[1].split(",")[0])
        for c in (first, now.get_attribute("data-cell"))
    )
    assert nx > x and tab.one("#tooltip").is_displayed()
    name = now.get_attribute("data-name")
    now.send_keys(Keys.ENTER)
    assert tab.text("#card-title").startswith(name)
    assert tab.driver.switch_to.active_element == now  # it stays where it was
    assert now.get_attribute("aria-pressed") == "true"
    node = tab.one('[data-node^="expert/"]')
    wanted = node.get_attribute("data-node")
    node.send_keys(Keys.SPACE)
    assert tab.text("#card-title").startswith(wanted)
    tab.one(".card .buttons button").send_keys(Keys.ESCAPE)
    assert not tab.all(".card")


def test_escape_closes_a_card_that_a_click_opened(tab, page):
    from selenium.webdriver import ActionChains, Keys

    tab.open(page)
    cell = tab.one('.cell[data-name="expert/skill_b"]')
    cell.click()  # the focus stays on the map
    assert tab.one("#tooltip").is_displayed() and tab.all(".card")
    ActionChains(tab.driver).send_keys(Keys.ESCAPE).perform()
    assert not tab.all(".card") and not tab.one("#tooltip").is_displayed()
    assert "#" not in tab.driver.current_url
    # From within the card the focus goes back to the map.
    cell.click()
    tab.one(".card .buttons button").send_keys(Keys.ESCAPE)
    assert not tab.all(".card") and not tab.one("#tooltip").is_displayed()
    focused = tab.driver.switch_to.active_element
    assert focused.get_attribute("data-name") == "expert/skill_b"
    # With nothing open it changes nothing.
    before = tab.run("return history.length")
    ActionChains(tab.driver).send_keys(Keys.ESCAPE).perform()
    assert tab.run("return history.length") == before
    # A card that a link opened, with the focus nowhere.
    tab.open(page, fragment="#individual=expert%2Fskill_b")
    tab.run("document.activeElement.blur()")
    ActionChains(tab.driver).send_keys(Keys.ESCAPE).perform()
    assert not tab.all(".card")
    assert tab.complaints() == []


def test_everything_has_a_name_for_screen_readers(tab, page):
    tab.open(page, fragment="#individual=child%2F14")
    nodes = tab.command("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "combobox", "textbox", "checkbox", "link", "image"}
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in roles
    ]
    assert len(found) > 30 and all(name.strip() for _, name in found)
    assert any(r == "slider" and n == "children evaluated" for r, n in found)
    assert any(r == "button" and "of 12 problems" in n for r, n in found)


def test_the_replay_goes_back_to_the_experts(tab, page, population):
    tab.open(page)
    move = (
        "const t = document.getElementById('time'); t.value = arguments[0];"
        "t.dispatchEvent(new Event('input'));"
    )
    for time in (0, 5, 14):
        tab.run(move, time)
        want = {}
        for place in population.placements:
            if place.generation <= time:
                want[place.archive, place.bins] = place.individual
        assert len(tab.all(".cell")) == len(want)
        assert f"after {time} of 14 children" in tab.text("#when")
    tab.one("#play").click()  # from the end it begins anew
    tab.wait(lambda: "after 2 of 14" in tab.text("#when"))
    tab.one("#play").click()
    assert tab.text("#play") == "Replay"
    assert tab.complaints() == []


def open_problem(tab, split="optimise"):
    """Opens the first problem of the card that was won or lost; its two sides."""
    tab.run(
        f"const d = document.querySelector('[data-split={split}]:has(.problem)');"
        "d.open = true; d.querySelector('.problem').open = true;"
    )
    sides = f"[data-split={split}] .problem .pair > div"
    return tab.wait(lambda: (found := tab.all(sides)) and found)


def test_hostile_output_stays_a_text(tab, page, population):
    champion = population.opened.facts.aggregation["skill_a"].individual
    fragment = (
        f"#individual={champion}" if "child" in champion else "#individual=aggregated"
    )
    tab.open(page, fragment=fragment)
    title = tab.driver.title
    for split in ("optimise", "test"):
        sides = open_problem(tab, split)
        assert len(sides) == 2
        outcomes = {s.find_element("css selector", "strong span").text for s in sides}
        assert outcomes == {"solved", "wrong"}
        for side in sides:
            assert side.find_element("css selector", "pre").text == SHOWN
    assert not tab.all("pre b") and not tab.all("pre img")
    assert tab.driver.title == title and len(tab.all("script")) == 3
    assert tab.complaints() == []


def open_all(tab, split):
    """Opens every problem of the card; what is above the replies of each."""
    tab.run(
        "document.querySelectorAll(`[data-split=${arguments[0]}], .problem`)"
        ".forEach(d => { d.open = true; })",
        split,
    )
    problems = f"[data-split={split}] .problem"
    tab.wait(
        lambda: len(tab.all(f"{problems} .pair > div")) == 2 * len(tab.all(problems))
    )
    return tab.run(
        "return [...document.querySelectorAll(arguments[0])].map(p => "
        "[p.querySelector('summary').textContent, p.children[1].textContent])",
        problems,
    )


def asked(problem):
    return f"Question: {problem.rpartition('/')[2]}: {asking_task.SHOWN}"


def test_replies_have_their_question_above_them(tab, fabricate, monkeypatch):
    run = fabricate()
    asking_task.give_questions(run, other=["skill_c"])
    run_contents.seal(run)
    build.write_report(run)
    page = run / "report" / "report.html"
    changed = "the task is not what it was when the run was made"

    def expected(problem):
        if problem.startswith("skill_c"):
            return f"The question is not shown: {changed}."
        return asked(problem)

    for split in ("optimise", "test"):
        tab.open(page, fragment="#individual=aggregated")
        found = open_all(tab, split)
        assert {problem[:7] for problem, _ in found} == set(asking_task.ENTRIES)
        assert [text for _, text in found] == [expected(p) for p, _ in found]
    assert len(tab.all("#explorer ~ section .question")) == 4  # the report's samples
    assert not tab.all(".question img") and tab.driver.title != "owned"
    assert tab.complaints() == []
    with served(run) as address:
        tab.open(address, fragment="#individual=aggregated")
        found = open_all(tab, "test")
        assert [text for _, text in found] == [expected(p) for p, _ in found]
        tab.open(address + "explore/question?task=other&problem=1")
        assert "no task" in tab.text("body")
    # A page holds a bounded part.
    monkeypatch.setattr(replies, "_QUESTIONS", 100)
    build.write_report(run)
    tab.open(page, fragment="#individual=aggregated")
    texts = [t for p, t in open_all(tab, "optimise") if not p.startswith("skill_c")]
    assert any("experiments.explore RUN shows all" in text for text in texts)


def test_a_question_that_is_not_here_has_its_reason(tab, page):
    tab.open(page, fragment="#individual=aggregated")
    assert {text for _, text in open_all(tab, "test")} == {
        "The question is not shown: the task cannot be made again."
    }


HELD = {
    "expert/skill_a": [1, 0, 0],
    "expert/skill_b": [0, 1, 0],
    "expert/skill_c": [0, 0, 1],
    "child/1": [1, 1, 1],
    "child/2": [0.65, 0.65, 0.65],
    "child/4": [0.2, 0.3, 0.5],
    "child/5": [0.65, 0.6, 0.55],
}


def blended(row):
    """Two seeds of the archives, then children of a crossover without weights."""
    weights = {"weight_1": float("nan"), "weight_2": float("nan")}
    if row["generation"] <= 2:
        return weights | dict.fromkeys(("active_task", "parent_1", "parent_2"))
    if row["generation"] == 5:
        return weights | {"parent_1": "child/2", "parent_2": "child/4"}
    return weights


@pytest.fixture(scope="module")
def blend(fabricate, rewrite):
    """A run with seeds and a crossover that records no weights, with its page."""
    run = fabricate()
    rewrite(run, blended, seeds=[1.0, 0.65], crossover="blend", mutation="gradient")
    with pytest.MonkeyPatch.context() as patch:
        shares = {name: {"layers 0 to 1": own} for name, own in HELD.items()}
        patch.setattr(build, "read_shares", lambda opened: shares)
        build.write_report(run)
    return run


def test_it_says_what_changed_where_parents_have_no_weights(tab, blend):
    page = blend / "report" / "report.html"
    tab.open(page, fragment="#individual=child%2F5")
    lines = [line.text for line in tab.all("[data-changed] p")]
    assert lines == [
        "Crossed from child/2 and child/4 by the crossover blend, then changed by the "
        "mutation gradient. Parents were drawn from the archive of skill_c.",
        "This crossover records no weights of parents, so it is compared with each.",
        "Against child/2, the nearer parent: \u22120.10 of skill_c in layers 0 to 1, "
        "\u22120.05 of skill_b in layers 0 to 1.",
        "Against child/4: +0.45 of skill_a in layers 0 to 1, +0.30 of skill_b in "
        "layers 0 to 1, +0.05 of skill_c in layers 0 to 1.",
    ]
    for child in read_population(open_run(blend)).children[2:]:
        tab.open(page, fragment=f"#individual={child.name}")
        made, *changed = [line.text for line in tab.all("[data-changed] p")]
        assert made.startswith("Crossed from ") and changed
        if child.name not in HELD:
            assert re.fullmatch(
                r"What changed in its layers is not known: .*dropped\.", changed[0]
            )
    assert tab.complaints() == []


def test_it_says_what_changed_where_parents_have_weights(tab, fabricate, rewrite, page):
    run = fabricate()
    change = {"parent_1": "expert/skill_a", "parent_2": "expert/skill_b"}
    change |= {"weight_1": 1.5, "weight_2": 0.5}
    rewrite(run, lambda row: change, mutation="none")
    own = HELD | {"child/1": [0.75, 0.25, 0], "child/2": [0.75, 0.5, 0]}
    with pytest.MonkeyPatch.context() as patch:
        shares = {name: {"layers 0 to 1": each} for name, each in own.items()}
        patch.setattr(build, "read_shares", lambda opened: shares)
        build.write_report(run)
    found = {}
    for number in (1, 2):
        address = run / "report" / "report.html"
        tab.open(address, fragment=f"#individual=child%2F{number}")
        found[number] = [line.text for line in tab.all("[data-changed] p")]
    assert found[1][0].startswith(
        "Crossed from expert/skill_a (75 %) and expert/skill_b (25 %) by the crossover "
        "linear, without a mutation."
    )
    assert found[1][1:] == [
        "It holds no more of any expert than the mean of its parents."
    ]
    assert found[2][1:] == [
        "Beyond the mean of its parents: +0.25 of skill_b in layers 0 to 1."
    ]
    tab.open(page, fragment="#individual=child%2F14")  # a run without shares
    assert "the page of this run has no shares" in tab.text("[data-changed]")


def test_a_start_of_the_archives_says_what_it_is(tab, blend):
    page = blend / "report" / "report.html"
    tab.open(page, fragment="#individual=child%2F2")
    card = tab.text(".card")
    assert "It was not bred: it is 0.65 of the sum of all experts" in card
    experts = {f"expert/{task}" for task in asking_task.ENTRIES}
    against = tab.all('[data-against^="expert/"][data-split="optimise"]')
    assert {one.get_attribute("data-against") for one in against} == experts
    tab.open(page, fragment="#individual=child%2F1")
    assert "it is the sum of all experts" in tab.text(".card")
    # Below a child the ancestors lead through its starts down to all experts.
    tab.open(page, fragment="#individual=child%2F5")
    nodes = {n.get_attribute("data-node"): n for n in tab.all("[data-node]")}
    assert experts | {"child/2", "child/5"} <= nodes.keys()
    start = nodes["child/2"]
    assert start.find_element("css selector", "text").text == "child/2"
    name = start.get_attribute("aria-label")
    assert name.startswith("child/2, a start: 0.65 of the sum of all experts: ")
    assert "child/2 is a start: 0.65 of the sum of all experts." in tab.text(".card")
    assert tab.complaints() == []


def test_nobody_lacks_ancestors_without_a_reason(tab, page):
    reasons = {
        "base": "The base model: it has no ancestors.",
        "uniform_merge": "The mean of all experts",
        "expert/skill_a": "An expert: it has no ancestors.",
    }
    for name, reason in reasons.items():
        tab.open(page, fragment=f"#individual={name}")
        assert reason in tab.text(".card")


def test_buttons_copy_commands_and_the_link(tab, page, run, population):
    tab.open(page, fragment="#individual=champion%2Fskill_a")
    buttons = {b.text: b for b in tab.all(".card .buttons button")}
    assert list(buttons) == [
        "Hugging Face folder", "PEFT adapter", "Export command", "Link to this elite",
    ]  # fmt: skip
    name = population.opened.facts.aggregation["skill_a"].individual
    buttons["Export command"].click()
    to = name.replace("/", "_")
    command = (
        f"python -m experiments.export {run} --individual {name} --to exports/{to}"
    )
    assert tab.one(".copied").get_property("value") == command
    buttons["Link to this elite"].click()
    link = tab.one(".copied").get_property("value")
    assert link == f"{page.as_uri()}#individual={name.replace('/', '%2F')}"
    held = set(population.elites().values())
    dropped = next(n for n in reversed(population.names) if n not in held)
    tab.open(page, fragment=f"#individual={dropped}")
    assert [b.text for b in tab.all(".card .buttons button")] == ["Link to this elite"]
    assert "genome was dropped" in tab.text(".card")


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_window_and_either_colour_scheme(tab, page, dark):
    tab.open(page, width=360, height=740, dark=dark, fragment="#individual=child%2F14")
    root = "return document.documentElement."
    assert tab.run(f"{root}scrollWidth") == tab.run(f"{root}clientWidth") <= 360
    wide = tab.run(
        "return document.querySelector('.map').getBoundingClientRect().width"
    )
    assert 240 < wide < 360
    background, ink = tab.run(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    )
    light = [sum(map(int, re.findall(r"\d+", c))) / 3 for c in (background, ink)]
    assert (
        (light[0] < 60 and light[1] > 180)
        if dark
        else (light[0] > 200 and light[1] < 80)
    )


def test_with_four_skills_a_reader_chooses_the_axes(tab, fabricate):
    run = fabricate(4, 9)
    build.write_report(run)
    tab.open(run / "report" / "report.html")
    assert len(tab.all("#maps figure")) == 4 and len(tab.all(".axes select")) == 8
    names = [
        node["name"]["value"]
        for node in tab.command("Accessibility.getFullAXTree")["nodes"]
        if not node["ignored"] and node["role"]["value"] == "combobox"
    ]
    maps = [f"map of skill_{letter}" for letter in "abcd"]
    assert names == [f"{way}, {one}" for one in maps for way in ("across", "up")]
    places = {p for p in read_population(open_run(run)).elites() if p[0] == 3}
    for pair in ((0, 1), (2, 1)):
        want = {(bins[pair[0]], bins[pair[1]]) for _, bins in places}
        assert len(tab.all('.cell[data-cell^="3/"]')) == len(want)
        across = tab.all('[data-axes="3"] select')[0]
        across.find_elements("css selector", "option")[2].click()
    assert tab.complaints() == []


def test_without_archives_or_a_test_split_all_individuals_are_listed(tab, fabricate):
    run = fabricate(2, 3)
    state = json.loads((run / "state.json").read_text())
    from cycleqd_jax.runs.facts import RunFacts, write_facts

    write_facts(run, RunFacts.model_validate(state | {"search": {}}))
    for path in (run / "results").glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.filter(pa.compute.not_equal(table["split"], "test")), path)
    run_contents.seal(run)
    build.write_report(run)
    tab.open(run / "report" / "report.html")
    assert not tab.all("#maps figure") and not tab.one("#replay").is_displayed()
    tab.one("#everyone-table tbody button").click()
    assert tab.all(".card") and "optimise" in tab.text("[data-scores] thead")
    assert "test" not in tab.text("[data-scores] thead")
    assert tab.complaints() == []


async def chat(request):
    """Answers as the endpoint does, one word after the other."""
    from starlette.responses import JSONResponse, StreamingResponse

    asked = await request.json()
    assert asked["stream"] and asked["messages"][0]["content"] == "What is 2 + 2?"
    if asked["model"] == "base":
        error = {"message": "There is no room <i>now</i>.", "code": "queue_full"}
        return JSONResponse({"error": error}, status_code=429)

    async def stream():
        for word in [asked["model"], " says ", HOSTILE]:
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            yield f"data: {json.dumps({'choices': [choice]})}\n\n"
            await asyncio.sleep(0.02)
        yield "data: [DONE]\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


def served(run, look_again_ms=10_000):
    missing = "the extra `serve` is not installed"
    applications = pytest.importorskip("starlette.applications", reason=missing)
    pytest.importorskip("uvicorn", reason=missing)
    from starlette.routing import Route

    from cycleqd_jax.serving.explore import explorer_routes

    routes = explorer_routes(open_run(run), look_again_ms)
    path = "/v1/chat/completions"
    routes.append(Route(path, chat, methods=["POST"]))
    return browser.serving(applications.Starlette(routes=routes))


def test_with_a_server_it_fetches_replies_and_chats(tab, run, population):
    champion = population.opened.facts.aggregation["skill_a"].individual
    with served(run) as address:
        tab.open(address, fragment="#individual=champion%2Fskill_a")
        assert "Scores on test" in tab.text("main")
        boxes = {
            b.get_attribute("value"): b for b in tab.all("#chat input[type=checkbox]")
        }
        assert {champion, "base", "expert/skill_b", "aggregated"} <= boxes.keys()
        boxes["aggregated"].click()
        tab.one("#question").send_keys("What is 2 + 2?")
        tab.one("#ask").click()
        tab.wait(lambda: not tab.one("#stop").is_enabled())
        answers = {a.get_attribute("data-answer"): a for a in tab.all("[data-answer]")}
        assert "aggregated" not in answers and len(answers) == len(boxes) - 1
        assert answers["expert/skill_b"].text == f"expert/skill_b says {SHOWN}"
        refused = answers["base"].find_element("xpath", "following-sibling::p")
        assert refused.text == "No answer: There is no room <i>now</i>."
        notes = [note.text for note in tab.all("#answers .note")]
        assert notes.count("") == len(answers) - 1  # nobody is waited for any more
        assert not tab.all("#answers img") and "owned" not in tab.driver.title
        tab.open(address, fragment="#individual=aggregated")
        for split in ("optimise", "test"):
            sides = open_problem(tab, split)
            replies = [s.find_element("css selector", "pre").text for s in sides]
            assert replies == [SHOWN, SHOWN]
        assert tab.complaints() == []


def test_a_run_in_progress_is_looked_at_again(tab, started):
    run = started(3)
    hidden = {}
    for kind in ("metrics", "results"):
        path = run / kind / "batch-000003.parquet"
        hidden[path] = path.read_bytes()
        path.unlink()
    with served(run, look_again_ms=200) as address:
        tab.open(address, fragment="#individual=child%2F8")
        assert "8 of 14 children and is in progress" in tab.text("#run-state")
        before = tab.text("#card-title")
        for path, content in sorted(hidden.items()):  # the metrics come first
            path.write_bytes(content)
        tab.wait(lambda: "12 of 14 children" in tab.text("#run-state"))
        assert tab.text("#card-title") == before and "after 12 of" in tab.text("#when")
        assert "in progress" in tab.text(".card .buttons + p")
        tab.open(address + "explore/replies?individual=child%2F99")
        assert "no individual" in tab.text("body")


def test_a_run_that_finishes_takes_no_question_away(tab, fabricate, interrupted):
    run = fabricate()
    whole = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    interrupted(run, 2)

    def finish():
        (run / "run.json").unlink()
        last = run / "state.json"  # as a run writes it
        for path in sorted(whole, key=lambda path: path == last):
            path.write_bytes(whole[path])

    with served(run, look_again_ms=200) as address:
        tab.open(address, fragment="#individual=child%2F8")
        tab.one("#question").send_keys("What is 2 + 2?")
        finish()
        tab.wait(lambda: tab.all("#show-results"))
        assert "The run has finished: show its results." in tab.text("#run-state")
        tab.one("#ask").click()
        tab.wait(lambda: not tab.one("#stop").is_enabled() and tab.all("[data-answer]"))
        sleep(0.7)  # it looks again a few times
        assert tab.one("#question").get_property("value") == "What is 2 + 2?"
        assert tab.all("[data-answer]") and "Scores on test" not in tab.text("main")
        tab.one("#show-results").click()
        tab.wait(lambda: tab.all("main") and "Scores on test" in tab.text("main"))
        assert tab.text("#card-title").startswith("child/8")
        assert not tab.all("#show-results")
    # Where nobody has typed anything, the page does it by itself.
    (run / "state.json").unlink()
    files.write_sealed(run / "run.json", {"tasks": list(asking_task.ENTRIES)})
    with served(run, look_again_ms=200) as address:
        tab.open(address)
        assert "Scores on test" not in tab.text("main")
        (run / "run.json").unlink()
        (run / "state.json").write_bytes(whole[run / "state.json"])
        tab.wait(lambda: tab.all("main") and "Scores on test" in tab.text("main"))
