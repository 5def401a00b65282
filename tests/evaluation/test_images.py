"""The evaluator of images against one model after another."""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sam_world

from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.evaluation.image_settings import ImagesSettings
from cycleqd_jax.evaluation.images import ImagesEvaluator, probabilities
from cycleqd_jax.evaluation.mask_programs import population_masks
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.genome import Genome, base_genome, expert_genome
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.models.experts import FullExpert, LoraExpert
from cycleqd_jax.models.families import make_segmentation_program
from cycleqd_jax.models.segmentation import Prompts
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.segmentation import mask_text
from cycleqd_jax.tasks.segmentation.images import fit_image
from cycleqd_jax.tasks.segmentation.measures import MEASURES
from cycleqd_jax.tasks.segmentation.prompts import make_prompt
from cycleqd_jax.tasks.segmentation.registry import make_data_set
from cycleqd_jax.tasks.segmentation.task import ImageTask

# For programs that run once: compiling them is most of the time.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SIZES = {Split.OPTIMISE: 5, Split.TEST: 3}


def make_tasks(prompt="none", size=sam_world.SIZE):
    options = {"size": size, "prompt": prompt}
    return [
        ImageTask(make_data_set(name, TaskSettings(sizes=SIZES, options=options)))
        for name in sam_world.TASKS[1:3]
    ]


@pytest.fixture(scope="module")
def world():
    """Program, base weights, and a basis of a LoRA and a full fine-tune."""
    rng, config = np.random.default_rng(1), sam_world.small_config()
    weights = sam_world.random_weights(config, rng)
    moved = {
        name: w + 0.1 * rng.standard_normal(w.shape).astype(np.float32)
        for name, w in weights.items()
    }
    experts = [LoraExpert(sam_world.random_lora(config, rng)), FullExpert(moved)]
    basis = compute_basis(weights, experts, expert_names=["a", "b"])
    on_device = {name: jnp.asarray(w) for name, w in weights.items()}
    return make_segmentation_program(config), on_device, basis


def make_genomes(basis, count=3):
    rng = np.random.default_rng(2)
    size = basis.genome_size
    return {
        f"child/{i}": Genome(
            jnp.asarray(rng.uniform(0, 1, size) * basis.singular_values, jnp.float32),
            jnp.asarray(rng.uniform(0, 1, 2), jnp.float32),
        )
        for i in range(count)
    }


def open_one(world, tasks, mode="factored", individuals=2, per_call=4, **more):
    program, weights, basis = world
    settings = ImagesSettings(per_call=per_call)
    return ImagesEvaluator(
        program,
        weights,
        basis,
        tasks=tasks,
        mode=mode,
        individuals_per_call=individuals,
        settings=settings,
        **more,
    )


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def one_mask(program, weights, pixels, prompts):
    image = program.embed_images(weights, pixels)
    return program.predict_masks(weights, image, prompts)[0][0, 0, 0]


def plain_scores(world, genome, tasks, split):
    """Task -> scores, one image of one materialised model at a time."""
    program, weights, basis = world
    own, found = materialise(weights, basis, genome), {}
    size = program.config.image_size
    for task in tasks:
        for problem in task.problems(split):
            example = task.example(problem)
            prompt = make_prompt(example.mask, task.prompt)
            given = Prompts()
            if task.prompt == "box":
                given = Prompts(boxes=prompt.boxes[None])
            if task.prompt == "point":
                given = Prompts(prompt.points[None, None], prompt.labels[None, None])
            pixels = fit_image(example.image, size)[None]
            logits = one_mask(program, own, pixels, given)
            soft = probabilities(logits, example.mask.shape, size)
            found[problem.id] = MEASURES[task.measure](soft, example.mask)
    return found


@pytest.mark.parametrize("mode", ["factored", "materialised"])
def test_a_population_scores_as_one_model_after_another(world, mode):
    tasks, genomes = make_tasks(), make_genomes(world[2])
    with open_one(world, tasks, mode) as evaluator:
        episodes, cost = evaluator.evaluate(genomes, Split.OPTIMISE)
    names = [(e.individual, e.task, e.problem) for e in episodes]
    assert names == [
        (n, t.name, p.id)
        for n in genomes
        for t in tasks
        for p in t.problems("optimise")
    ]
    assert cost.tokens_forward == len(episodes) == 30 and cost.tokens_backward == 0
    assert {e.outcome for e in episodes} == {"scored"}
    for name, genome in genomes.items():
        want = plain_scores(world, genome, tasks, Split.OPTIMISE)
        got = {e.problem: e.score for e in episodes if e.individual == name}
        assert got.keys() == want.keys()
        np.testing.assert_allclose(
            list(got.values()), [want[p] for p in got], atol=1e-5
        )
    assert len({round(e.score, 6) for e in episodes}) > 15  # not all the same


@pytest.mark.parametrize("prompt", ["box", "point"])
def test_prompts_reach_the_model(world, prompt):
    tasks, genomes = make_tasks(prompt), make_genomes(world[2], 1)
    with open_one(world, tasks) as evaluator:
        episodes = evaluator.evaluate(genomes, Split.TEST).episodes
    want = plain_scores(world, genomes["child/0"], tasks, Split.TEST)
    for e in episodes:
        assert e.score == pytest.approx(want[e.problem], abs=1e-5)


def test_neighbours_do_not_change_a_bit(world):
    """Other individuals, other images and another order: the same scores."""
    tasks, genomes = make_tasks(), make_genomes(world[2])
    with open_one(world, tasks) as evaluator:
        whole = evaluator.evaluate(genomes, Split.OPTIMISE).episodes
        names = list(genomes)[::-1]
        turned = evaluator.evaluate(
            {n: genomes[n] for n in names},
            Split.OPTIMISE,
            problems={
                tasks[1].name: [p.id for p in tasks[1].problems("optimise")[1:4]]
            },
        ).episodes
    known = {(e.individual, e.problem): e.score for e in whole}
    assert len(turned) == 9
    for e in turned:
        assert e.score == known[e.individual, e.problem]


def test_the_model_of_a_genome_is_the_expert(world):
    """Base and experts, mixed with a model that is no genome."""
    from cycleqd_jax.merging.individuals import TrainedExpert

    _, weights, basis = world

    class Whole:
        def weights(self, individual):
            return materialise(weights, basis, expert_genome(basis, 1))

    tasks = make_tasks()
    with open_one(world, tasks, whole=Whole()) as evaluator:
        models = {
            "base": base_genome(basis),
            "trained": TrainedExpert("b"),
            "genome": expert_genome(basis, 1),
        }
        found = evaluator.evaluate(models, Split.TEST).episodes
    scores = {n: [e.score for e in found if e.individual == n] for n in models}
    np.testing.assert_allclose(scores["trained"], scores["genome"], atol=1e-5)
    assert not np.allclose(scores["base"], scores["genome"], atol=1e-3)


def test_images_of_other_sizes_and_their_masks_as_text(world):
    tasks = make_tasks(size=48)
    with open_one(world, tasks) as evaluator:
        models = {"base": base_genome(world[2])}
        tested = evaluator.evaluate(models, Split.TEST).episodes
        others = evaluator.evaluate(models, Split.OPTIMISE).episodes
    assert {e.answer for e in others} == {""}
    for e in tested:
        mask = mask_text.from_text(e.answer)
        assert mask.shape == (48, 48)
        assert mask_text.to_text(mask) == e.answer
    jaccard = [e for e in tested if e.task == "pocket_lesions"]
    for e in jaccard:
        problem = next(p for p in tasks[1].problems("test") if p.id == e.problem)
        truth = tasks[1].example(problem).mask
        score = MEASURES["jaccard"](mask_text.from_text(e.answer), truth)
        assert e.score == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(
    "mask",
    [np.zeros((3, 4), bool), np.ones((2, 2), bool), np.eye(5, dtype=bool)],
)
def test_masks_and_texts(mask):
    np.testing.assert_array_equal(mask_text.from_text(mask_text.to_text(mask)), mask)


def test_one_program_whatever_the_numbers(world):
    tasks, genomes = make_tasks(), make_genomes(world[2], 5)
    with open_one(world, tasks) as evaluator:
        evaluator.evaluate(genomes, Split.OPTIMISE)
        before = population_masks._cache_size()
        evaluator.evaluate({"x": genomes["child/0"]}, Split.TEST)
        assert population_masks._cache_size() == before


def test_a_mask_that_is_not_finite_stops_the_run(world):
    tasks, genomes = make_tasks(), make_genomes(world[2], 1)
    bad = dataclasses.replace(
        genomes["child/0"], scales=jnp.full(2, jnp.nan, jnp.float32)
    )
    with open_one(world, tasks) as evaluator, pytest.raises(RunError) as error:
        evaluator.evaluate({"child/7": bad}, Split.TEST)
    assert "child/7 on pocket_polyps/test/0" in str(error.value)


def test_unknown_problems_are_refused(world):
    with open_one(world, make_tasks()) as evaluator:
        with pytest.raises(BadInputError, match="no_task"):
            evaluator.evaluate({}, Split.TEST, problems={"no_task": ["x"]})


def test_nothing_of_text_is_imported():
    code = (
        "import sys, cycleqd_jax.evaluation.images\n"
        "bad = [m for m in sys.modules if m.startswith(('cycleqd_jax.inference', "
        "'tokenizers', 'transformers', 'cycleqd_jax.tasks.pocket'))]\n"
        "print(bad); sys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
