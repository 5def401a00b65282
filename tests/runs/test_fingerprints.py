"""A run is resumed with what it was begun with."""

import pytest

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.fingerprints import check_same_inputs
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.setup import prepare


def fingerprints(settings, **sections):
    changed = {name: settings.get(name, {}) | s for name, s in sections.items()}
    config = RunConfig.model_validate(settings | changed)
    return prepare(config, None, Observer()).fingerprints


@pytest.mark.parametrize(
    "sections, named",
    [
        ({"qd": {"w_max": 0.1}}, "search settings"),
        ({"aggregation": {"choose_by": "quality"}}, "comparison settings"),
        ({"baselines": {"scaled_merge_factors": [0.5]}}, "comparison settings"),
        ({"basis": {"rank": 1}}, "basis"),
        ({"problems": {"test": 3}}, "tasks"),
    ],
)
def test_other_settings_are_refused_by_name(toy_settings, tmp_path, sections, named):
    with RunFolder(tmp_path / "run", resume=True) as folder:
        before = fingerprints(toy_settings)
        files.write_json(folder.path / "run.json", {"fingerprints": before})
        check_same_inputs(folder, before)
        with pytest.raises(BadInputError, match=f"begun with other {named}"):
            check_same_inputs(folder, fingerprints(toy_settings, **sections))


def test_more_generations_and_another_engine_are_the_same_run(toy_settings):
    more = {"qd": {"num_generations": 50}, "engine": {"slots": 4}}
    assert fingerprints(toy_settings, **more) == fingerprints(toy_settings)
