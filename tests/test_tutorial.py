"""docs/tutorial.ipynb: what its cells name exists, and the notebook itself runs."""

import ast
import importlib
import json
import pathlib
import shlex

import pytest

from cycleqd_jax.config import RunConfig, load_config
from experiments import agent_skills

NOTEBOOK = pathlib.Path(__file__).parents[1] / "docs" / "tutorial.ipynb"
BASH = "%%bash\n"


def code_cells():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return [c for c in cells if c["cell_type"] == "code"]


def sources():
    return ["".join(cell["source"]) for cell in code_cells()]


def commands():
    """Words of every command of this package, after `python -m`."""
    lines = [
        line
        for source in sources()
        if source.startswith(BASH)
        for line in source.replace("\\\n", " ").splitlines()
    ]
    words = [shlex.split(line) for line in lines if line.startswith("python ")]
    return {rest[0].removeprefix("experiments."): rest[1:] for _, _, *rest in words}


def test_it_is_committed_without_outputs():
    for cell in code_cells():
        assert cell["outputs"] == [] and cell["execution_count"] is None


def test_every_import_of_its_python_exists():
    python = [source for source in sources() if not source.startswith("%%")]
    nodes = [node for source in python for node in ast.walk(ast.parse(source))]
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    own = [node for node in imports if node.module.startswith("cycleqd_jax")]
    assert len(own) > 3
    for node in own:
        module = importlib.import_module(node.module)
        for alias in node.names:
            assert hasattr(module, alias.name), (node.module, alias.name)


def test_every_command_and_setting_exists(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = commands()
    assert list(given) == ["agent_skills", "ask", "export"]
    asked = []
    monkeypatch.setattr(agent_skills, "_run", lambda args: asked.append(args) or 0)
    assert agent_skills.main(given["agent_skills"]) == 0
    config = load_config(asked[0].config, asked[0].settings, RunConfig)
    for name in ("ask", "export"):
        assert given[name][0] == config.run_dir
        # An option that does not exist would end the command by SystemExit.
        assert importlib.import_module(f"experiments.{name}").main(given[name]) == 2
        assert f"{config.run_dir}: is not a run folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    import nbclient
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=None, resources=place).execute()
    outputs = [o for c in notebook.cells for o in c.get("outputs", ())]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 1
    assert (tmp_path / "tutorial_files/merged/model.safetensors").is_file()
