"""The data as a user gets them: the reference's own files, given or downloaded."""

import functools
import hashlib
import http.server
import json
import shutil
import threading
import types
import urllib.error

import pytest

from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.tasks import published
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.os_interaction import reference, sources
from cycleqd_jax.tasks.os_interaction.task import OSInteraction
from tests.support.benchmark_data import data_folder, needs_data
from tests.tasks.os_interaction.reference_files import (
    INTRO,
    MATCH,
    PREFIX,
    OSInteractionSample,
    make,
    samples,
    write,
)

ROWS = [
    {
        "description": "How many?",
        "init_script": [],
        "start": None,
        "match": None,
        "check": [None, {"language": "python", "code": MATCH[1]}],
        "example_script": {"language": "bash", "code": "ls"},
    },
    {
        "description": "What is {description}?",
        "init_script": [
            {"language": "bash", "code": "true"},
            {"language": "python", "code": MATCH[1]},
        ],
        "start": {"language": "bash", "code": "cd /"},
        "match": {"answer": "no", "strip": False},
        "check": None,
        "example_script": None,
    },
]


@pytest.fixture
def jsonl(tmp_path):
    """The same problems in files of the other form."""
    folder = tmp_path / "written"
    folder.mkdir()
    rows = [{"index": i, "file": "data/1/a.json", **row} for i, row in enumerate(ROWS)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "problems.jsonl").write_text(lines)
    last = {"role": "user", "content": INTRO + "{description}"}
    prompt = {"prefix_messages": PREFIX, "last_message": last}
    (folder / "prompt.json").write_text(json.dumps(prompt))
    (folder / "cycleqd_task_ids.json").write_text("[1, 0]")
    return folder


def read(folder):
    return sources.read_data(sources.find_data(str(folder), False))


@pytest.mark.parametrize("protocol", [4, 5])
def test_the_reference_s_files_are_the_same_problems(tmp_path, jsonl, protocol):
    fetched = write(tmp_path, samples(), protocol)
    assert read(fetched) == read(jsonl)
    one, other = (make(f, split="reference") for f in (fetched, jsonl))
    ids = [p.id for p in one.problems(Split.OPTIMISE)]
    assert ids == ["os_interaction/1", "os_interaction/0"]
    assert one.fingerprint == other.fingerprint
    asked = one.dialogue(one.problem(1))[2]["content"]
    assert asked == "My problem is:\n\nWhat is {description}?"
    again = make(fetched / "samples.pkl", split="reference")
    assert again.fingerprint == one.fingerprint != make(fetched).fingerprint


@needs_data
def test_all_problems_are_the_same_from_a_pickle(tmp_path):
    """Ours, put into samples as the reference's are made."""
    ours = data_folder() / "os_interaction"
    prompt = json.loads((ours / "prompt.json").read_text())

    def script(value):
        return value and (value["language"], value["code"])

    def sample(row):
        config = {
            "asked": row["description"],
            "init_script": [script(s) for s in row["init_script"]] or None,
            "start": script(row["start"]),
            "check": row["check"] and [script(s) for s in row["check"]],
            "match": row["match"],
            "example_script": script(row["example_script"]),
        }
        made = OSInteractionSample(row["index"], config)
        made.config["file"] = row["file"]
        text = prompt["last_message"]["content"]
        last = text.replace("{description}", row["description"])
        made.problem = [*prompt["prefix_messages"], {"role": "user", "content": last}]
        return made

    lines = (ours / "problems.jsonl").read_text().splitlines()
    fetched = write(tmp_path, [sample(json.loads(line)) for line in lines])
    assert len(lines) == 170 and read(fetched) == read(ours)
    assert make(fetched).fingerprint == make(ours).fingerprint


def test_the_prompt_of_the_reference_will_do(tmp_path, jsonl):
    fetched = write(tmp_path, samples())
    (jsonl / "prompt.json").unlink()
    with pytest.raises(MissingDataError, match=r"prompt.*samples\.pkl.* curl "):
        make(jsonl)
    shutil.copy(fetched / "samples.pkl", jsonl)
    assert make(jsonl).fingerprint == make(fetched).fingerprint


def test_the_list_of_ids_is_missing_or_none(tmp_path):
    folder = write(tmp_path, samples())
    source = folder / "agentbench_os.py"
    for text, words in [
        ("_task_ids = range(3)", "_task_ids cannot be read from it"),
        ("_task_ids = 'all'", "expected a list of integers"),
        ("_task_ids = {[]: 1}", "_task_ids cannot be read from it"),
        ("x = " + "(" * 9999, "_task_ids cannot be read from it"),
        ("_task_ids", "has no _task_ids; .* curl "),
        ("_task_ids = [0, 7]", "no problem '7'"),
    ]:
        source.write_text(text)
        with pytest.raises(BadInputError, match=words):
            make(folder, split="reference")
    source.unlink()
    with pytest.raises(MissingDataError, match=r"split: reference, .* curl "):
        make(folder, split="reference")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serves the reference's repository, small, from this machine; counts requests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fetched, root = write(tmp_path, samples()), tmp_path / "repository"
    files = {}
    for name, (path, _) in reference.PUBLISHED.files.items():
        content = (fetched / name).read_bytes()
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        files[name] = (path, hashlib.sha256(content).hexdigest())
    small = published.Published("os_interaction", files)
    monkeypatch.setattr(sources, "PUBLISHED", small)
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        here = f"http://127.0.0.1:{serving.server_port}/"
        monkeypatch.setattr(published, "REPOSITORY", here)
        thread = threading.Thread(target=serving.serve_forever, args=(0.02,))
        thread.start()
        yield types.SimpleNamespace(root=root, asked=asked, files=files)
        serving.shutdown()
        thread.join()


def test_what_is_not_given_is_fetched_once(server, tmp_path):
    task = OSInteraction(TaskSettings(options={"split": "reference"}))
    assert (
        task.fingerprint
        == make(write(tmp_path, samples()), split="reference").fingerprint
    )
    assert len(server.asked) == 2
    folder = tmp_path / "cache" / "cycleqd_jax" / "os_interaction"
    assert sorted(f.name for f in folder.iterdir()) == sorted(server.files)
    for download in (True, False):  # kept, also where nothing may be fetched
        OSInteraction(TaskSettings(download=download))
    assert len(server.asked) == 2
    (folder / "samples.pkl").write_bytes(b"half of it")
    OSInteraction(TaskSettings())  # fetched again, and that file only
    assert len(server.asked) == 3 and server.asked[-1].endswith("samples.pkl")


@pytest.mark.parametrize("damage", ["another", "cut off", "none", "no room"])
def test_what_comes_damaged_is_not_kept(server, tmp_path, damage):
    path = server.root / server.files["samples.pkl"][0]
    words = "is not the file it was, or was cut off"
    if damage == "none":
        path.unlink()
        words = "samples.pkl: HTTP Error 404"
    elif damage == "no room":
        (tmp_path / "cache").write_text("a file where the folder would be")
        words = "Not a directory|File exists"
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-9] if damage == "cut off" else content + b"x")
    with pytest.raises(MissingDataError, match=f"{words}.* curl "):
        OSInteraction(TaskSettings())
    assert not list(tmp_path.glob("cache/**/*.pkl*"))


def test_without_a_network_the_command_is_told(tmp_path, monkeypatch):
    """It is the whole command: its addresses are those of the published files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def unreachable(url, timeout):
        raise urllib.error.URLError(OSError("Network is unreachable"))

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    commit = "CycleQD/3d14971e0b50c8111c4cb13abd1b261d4c6685ec/"
    for download, words in [(True, "unreachable"), (False, "switched off")]:
        with pytest.raises(MissingDataError, match=words) as caught:
            OSInteraction(TaskSettings(download=download))
        _, _, command = str(caught.value).partition("; get it with: curl ")
        *options, samples_url, source_url = command.split()
        assert options == (
            "--create-dirs --output-dir os_interaction --remote-name-all".split()
        )
        assert samples_url.endswith(
            f"{commit}evaluation/fishfarm/data/os_interaction/configs/samples.pkl"
        )
        assert source_url.endswith(f"{commit}tasks/agentbench_os.py")
    with pytest.raises(BadInputError, match=r"there is none at /nowhere; .* curl "):
        make("/nowhere")
