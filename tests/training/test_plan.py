"""Which experts a config asks for, and what of them may be there already."""

import pytest
import yaml

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.training.plan import (
    Status,
    plan_experts,
    status_of,
    write_facts,
)
from cycleqd_jax.training.settings import TrainConfig
from cycleqd_jax.training.work_folder import WorkFolder

PRINTS = {"base model": "m", "data": "d"}


@pytest.fixture
def config(tmp_path):
    def _config(**changes):
        settings = {
            "base_model": "some/model",
            "experts": {"one": {"skill_a": 1.0}, "two": {"skill_a": 1, "x.jsonl": 3}},
            "output": str(tmp_path),
        }
        settings |= changes
        if "tasks" in changes:
            del settings["experts"]
        return TrainConfig.model_validate(yaml.safe_load(yaml.safe_dump(settings)))

    return _config


def status(config, place=0, prints=PRINTS):
    plan = plan_experts(config, {"skill_a": "skill_a", "my.tasks:B": "skill_b"})[place]
    return status_of(plan, config, prints)


def begin(config, place=0, *, done=False):
    plan = plan_experts(config, {"skill_a": "skill_a", "my.tasks:B": "skill_b"})[place]
    folder = plan.folder if done else plan.work
    folder.mkdir(parents=True, exist_ok=True)
    write_facts(folder, config, PRINTS)
    return folder


def test_tasks_are_a_shorthand_for_experts(config, tmp_path):
    names = {"skill_a": "skill_a", "my.tasks:B": "skill_b"}
    plans = plan_experts(config(tasks=["skill_a", "my.tasks:B"]), names)
    assert [(p.name, p.number) for p in plans] == [("skill_a", 0), ("skill_b", 1)]
    assert plans[1].sources == {"my.tasks:B": 1.0}
    assert plans[1].folder == tmp_path / "skill_b"


def test_experts_may_be_added_and_reordered(config):
    first = plan_experts(config(), {})
    two, one = {"skill_a": 1, "x.jsonl": 3}, {"skill_a": 1.0}
    second = plan_experts(config(experts={"two": two, "new": two, "one": one}), {})
    by_name = {plan.name: plan for plan in second}
    assert all(by_name[plan.name] == plan for plan in first)
    begin(config(), 0, done=True)
    changed = config(experts={"new": two, "one": one})
    assert status(changed, 0) is Status.NEW
    assert status(changed, 1) is Status.COMPLETE


def test_the_validation_curve_binds_an_unfinished_training_alone(config):
    begin(config())
    begin(config(), 1, done=True)
    curve = config(optimiser={"validate_every": 5})
    with pytest.raises(BadInputError, match="validate_every 0 where it is now 5"):
        status(curve)
    more = PRINTS | {"validation data": "v"}
    assert status(curve, 1, more) is Status.COMPLETE
    with pytest.raises(BadInputError, match="another validation data"):
        status(config(), 0, more)


@pytest.mark.parametrize("done", [False, True])
def test_what_is_there_is_recognised(config, done):
    assert status(config()) is Status.NEW
    begin(config(), done=done)
    want = Status.COMPLETE if done else Status.UNFINISHED
    assert status(config()) is want
    free = config(
        optimiser={"checkpoint_every": 3}, engine={"slots": 32}, problems={"test": 9}
    )
    assert status(free) is want


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimiser": {"steps": 70}}, "optimiser.steps 60 where it is now 70"),
        ({"seed": 1}, "seed 0 where it is now 1"),
        ({"method": "full"}, "method 'lora' where it is now 'full'"),
        ({"lora": {"rank": 4}}, "lora.rank 8 where it is now 4"),
        ({"packing": True}, "packing False where it is now True"),
        ({"problems": {"train": 700}}, "problems.train 600 where it is now 700"),
        ({"experts": {"one": {"skill_a": 2.0}}}, "sources {'skill_a': 1.0}"),
        ({"experts": {"one": {"skill_b": 1.0}}}, "sources {'skill_a': 1.0}"),
    ],
)
def test_other_settings_are_refused_with_both_values(config, changes, words, done):
    folder = begin(config(), done=done)
    with pytest.raises(BadInputError) as caught:
        status(config(**changes))
    text = str(caught.value)
    assert words in text and str(folder) in text and "\n" not in text
    assert ("was started with" in text) is not done


def test_other_inputs_are_refused(config):
    begin(config())
    for key in PRINTS:
        with pytest.raises(BadInputError, match=f"another {key}"):
            status(config(), prints=PRINTS | {key: "changed"})


def test_an_expert_of_the_shorthand_knows_its_place(config):
    begin(config(tasks=["skill_a"]), done=True)
    assert status(config(tasks=["skill_a", "my.tasks:B"])) is Status.COMPLETE
    with pytest.raises(BadInputError, match="place among tasks 0 where it is now 1"):
        status(config(tasks=["my.tasks:B", "skill_a"]), 1)


def test_other_things_in_the_output_are_refused(config, tmp_path):
    (tmp_path / "one").mkdir()
    assert status(config()) is Status.NEW  # an empty folder is welcome
    (tmp_path / "one" / "thesis.tex").touch()
    with pytest.raises(BadInputError, match="no finished expert"):
        status(config())
    (tmp_path / "two").touch()
    with pytest.raises(BadInputError, match="is a file"):
        status(config(), 1)


def test_settings_that_do_not_matter_to_an_expert(config):
    begin(config(method="full"))
    assert status(config(method="full", lora={"rank": 2})) is Status.UNFINISHED
    own = {"experts": {"one": {"x.jsonl": 1.0}}, "seed": 5}
    begin(config(**own, output=config().output + "/b"))
    same = config(**own, output=config().output + "/b", problems={"train": 9})
    assert status(same) is Status.UNFINISHED


def test_a_file_in_place_of_the_checkpoints(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(BadInputError, match=r"checkpoints is a file; expected a fo"):
        WorkFolder(tmp_path)
