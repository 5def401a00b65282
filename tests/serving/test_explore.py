"""The explorer with the real endpoint behind it."""

import json
import re

import browser
import pytest
import served

from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.serving.explore import explorer_routes
from experiments import explore


def tree(run):
    return {path: path.stat().st_mtime_ns for path in run.rglob("*")}


@pytest.fixture(scope="module")
def tab():
    with browser.open_browser() as page:
        yield page


def test_the_page_chats_with_an_elite_beside_base_and_experts(tab, toy_run):
    before, opened = tree(toy_run), open_run(toy_run)
    champion = opened.resolve("champion/toy_a")
    with served.serving(toy_run, explorer_routes(opened)) as there:
        tab.open(f"{there.url}/", fragment="#individual=champion%2Ftoy_a")
        assert tab.text("#card-title").startswith(champion)
        tab.one("#question").send_keys("toy_a test 1")
        tab.one("#ask").click()
        tab.wait(lambda: not tab.one("#stop").is_enabled(), seconds=120)
        answers = {
            box.get_attribute("data-answer"): box for box in tab.all("[data-answer]")
        }
        assert {champion, "base", "expert/toy_a", "expert/toy_b"} <= answers.keys()
        message = {"role": "user", "content": "toy_a test 1"}
        for name, box in answers.items():
            asked = {"model": name, "messages": [message]}
            status, reply = there.post("/v1/chat/completions", asked)
            text = reply["choices"][0]["message"]["content"]
            assert status == 200 and box.get_property("textContent") == shown(text)
        assert tab.complaints() == []
        assert there.get("/explore/data", Host="evil.example")[0] == 403
        assert there.get("/explore/replies?individual=nobody")[0] == 404
        question = "/explore/question?task=toy_a&problem=toy_a/test/1"
        assert json.loads(there.get(question)[1]) == {"text": "toy_a test 1"}
        assert there.get("/explore/question?task=other&problem=1")[0] == 404
    assert tree(toy_run) == before


def shown(text: str) -> str:
    """A text as the page shows it: control characters as escapes."""
    return re.sub(r"[\0-\x08\x0b-\x1f\x7f]", lambda m: f"\\x{ord(m[0]):02x}", text)


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path, capsys):
    assert explore.main([str(tmp_path), "--port", "0"]) == 2
    assert "not a run folder" in capsys.readouterr().err
