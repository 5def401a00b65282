"""The data as AgentBench's repository has them, with the groups in its order."""

import hashlib
import json
import shutil

import pytest

from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.tasks.data import read_jsonl
from cycleqd_jax.tasks.os_interaction import sources
from tests.support.benchmark_data import data_folder, needs_data
from tests.tasks.os_interaction.reference_files import make


def read(folder):
    return sources.read_data(sources.find_data(str(folder), False))


@needs_data
def test_agentbench_s_folder(tmp_path):
    """Its layout, made of our copy: files, scripts in their own files, short forms."""
    ours = data_folder() / "os_interaction"
    rows = read_jsonl(ours / "problems.jsonl", {})
    places = {r["index"]: r for r in read_jsonl(ours / "agentbench_map.jsonl", {})}
    folder, files = tmp_path / "os_interaction", {}
    for row in rows:
        place = places[row["index"]]
        scripts = folder / place["script_dir"].removeprefix("data/os_interaction/")
        scripts.mkdir(parents=True, exist_ok=True)
        item = as_agentbench(row, scripts)
        at = files.setdefault(place["agentbench_file"], {})
        at[place["agentbench_index"]] = item
    for name, items in files.items():
        path = folder / name.removeprefix("data/os_interaction/")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = [items[i] for i in sorted(items)]
        path.write_text(json.dumps(content if len(content) > 1 else content[0]))
    (folder / "data" / "6-backup.json").write_text("not read")
    with pytest.raises(MissingDataError, match="the prompt"):
        make(folder)
    shutil.copy(ours / "prompt.json", folder)
    (problems, prompt), (expected, same) = read(folder), read(ours)
    assert prompt == same and list(problems) == list(expected)
    for index, problem in problems.items():
        assert problem.group == places[index]["agentbench_file"]
        assert {**vars(problem), "group": ""} == {**vars(expected[index]), "group": ""}
    check_damaged(folder)


def check_damaged(folder):
    one = folder / "data" / "4" / "N37.json"
    good = one.read_text()
    for change, words in [
        ({"evaluation": {}}, "N37.json, problem 0: expected either"),
        ({"evaluation": {"check": {}}}, "N37.json, problem 0: expected a script"),
        ({"evaluation": {"check": {"file": "no.py"}}}, r"its script no\.py cannot be"),
        ({"evaluation": {"check": {"file": "../1/x"}}}, "it is not below"),
        ({"description": None}, "N37.json, problem 0: the field 'description'"),
    ]:
        one.write_text(json.dumps(json.loads(good) | change))
        with pytest.raises(BadInputError, match=words):
            make(folder)
    one.unlink()
    with pytest.raises(BadInputError, match=r"AgentBench's 170 problems.* got 169"):
        make(folder)


def as_agentbench(row, scripts):
    """A problem in AgentBench's words, with some of its short forms."""

    def write(script, number):
        if script is None or number % 3 == 0:
            return script
        if script["language"] == "bash" and number % 3 == 1:
            return {"code": script["code"]} if number % 2 else script["code"]
        name = f"{hashlib.md5(script['code'].encode()).hexdigest()}.txt"
        (scripts / name).write_text(script["code"])
        return {"language": script["language"], "file": name}

    index, judging = row["index"], {}
    if row["match"]:
        short = row["match"]["strip"] and index % 2
        judging["match"] = row["match"]["answer"] if short else row["match"]
        judging["example"] = {"code": "not read"}
    else:
        judging["check"] = [write(s, index + i) for i, s in enumerate(row["check"])]
        judging["example"] = write(row["example_script"], index)
    item = {"description": row["description"], "evaluation": judging}
    if row["start"]:
        item["start"] = write(row["start"], index)
    init = [write(s, index + i) for i, s in enumerate(row["init_script"])]
    if init or index % 2:
        item["create"] = {"local": "default"}
        item["create"]["init"] = init[0] if len(init) == 1 else init
    elif index % 4:
        item["create"] = [None]
    return item
