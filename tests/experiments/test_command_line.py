"""Overrides, options and paths on the command line of every command."""

import pytest

from experiments import agent_skills, language, report, train_experts


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("command", [agent_skills, train_experts, language])
def test_settings_may_stand_on_both_sides_of_an_option(command, home, capsys):
    (home / "c.yaml").write_text("{}")
    assert command.main(["seed=1", "--config", "~/c.yaml", "seed=-7"]) == 2
    assert "seed: Input should be greater" in capsys.readouterr().err


def test_the_home_folder_is_known_where_no_shell_has_expanded_it(home, capsys):
    assert report.main(["~/no-run"]) == 2
    assert f"{home}/no-run: is not a run folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        report.main(["~nobody-here/run"])
    assert ended.value.code == 2
    assert "a home folder that does not exist" in capsys.readouterr().err
