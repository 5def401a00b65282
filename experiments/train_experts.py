"""Fine-tunes one LoRA expert per task and writes each as a PEFT folder.

python -m experiments.train_experts \
        --config experiments/configs/quickstart_experts.yaml [key=value ...]
"""

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Sequence

import jax

from cycleqd_jax.config import TrainConfig, load_config, to_yaml
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluate import Evaluator, check_prompts, mean_scores
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.io import files
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.genome import base_genome, expert_genome
from cycleqd_jax.models.llama import LlamaProgram
from cycleqd_jax.models.loading import load_expert, load_model
from cycleqd_jax.models.peft import LoraFactor, save_lora
from cycleqd_jax.prepare import engine_shape, make_tasks, open_sandbox, put_on_device
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.training import lora
from cycleqd_jax.training.examples import examples_of
from cycleqd_jax.training.sft import StepMetrics, train_lora
from experiments import console

SETTINGS = "training.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and trains; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.train_experts",
        description="Fine-tune one LoRA expert per task; write PEFT folders.",
    )
    parser.add_argument("--config", required=True, help="a YAML file of settings")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings that override it"
    )
    args = parser.parse_args(argv)
    return console.guarded(
        lambda: train(load_config(args.config, args.settings, TrainConfig)),
        interrupted="Experts that are complete are kept; run the command again.",
    )


def train(config: TrainConfig) -> int:
    """Trains, validates and writes one expert after another."""
    console.set_up_process()
    with console.ConsoleObserver() as observer:
        tasks = make_tasks(config.tasks, config.problems)
        for task in tasks:
            if not task.problems(Split.VALIDATE):
                raise BadInputError(
                    f"problems.validate is 0, so {task.name} cannot be validated; set "
                    "it to 1 or more."
                )
        observer.phase("loading the base model")
        model = load_model(config.base_model, dtype=config.dtype)
        program = LlamaProgram(model.config, config.dtype)
        check_prompts(
            tasks,
            [Split.VALIDATE],
            model.tokenizer,
            length=config.engine.length,
            multiple_of=config.engine.prefill_chunk,
        )
        weights = put_on_device(model.weights)
        settings = lora.LoraSettings(
            config.lora.rank, config.lora.alpha, config.lora.targets
        )
        for index, task in enumerate(tasks):
            folder = pathlib.Path(config.output) / task.name
            if _is_complete(folder, config):
                observer.note(f"{task.name} is complete in {folder}, kept as it is")
                continue
            start = time.perf_counter()
            observer.phase(f"training {task.name}")
            examples = [
                example
                for problem in task.problems(Split.TRAIN)
                for example in examples_of(task.dialogue(problem), model.tokenizer)
            ]

            def report(row: StepMetrics, name: str = task.name) -> None:
                observer.episodes(row.step, config.optimiser.steps)
                if row.step % 10 == 0 or row.step == config.optimiser.steps:
                    observer.note(
                        f"{name} step {row.step}/{config.optimiser.steps}  "
                        f"loss {row.loss:.4f}  tokens right {row.token_accuracy:.3f}"
                    )

            trained = train_lora(
                program,
                weights,
                examples,
                jax.random.fold_in(jax.random.key(config.seed), index),
                settings=settings,
                optimiser=config.optimiser,
                on_step=report,
            )
            factors = {
                name: LoraFactor(b, a, settings.scale)
                for name, (b, a) in lora.to_numpy(trained.factors).items()
            }
            # bfloat16 halves the files; scores are those of the file as it is stored.
            save_lora(
                folder,
                factors,
                base_name=config.base_model,
                card="Being validated.",
                dtype="bfloat16",
            )
            observer.phase(f"validating {task.name}")
            scores = _validate(config, folder, model, program, weights, tasks)
            save_lora(
                folder,
                factors,
                base_name=config.base_model,
                card=_card(config, task.name, scores, trained.history[-1]),
                dtype="bfloat16",
            )
            files.write_text(
                folder / "history.jsonl",
                "".join(json.dumps(row._asdict()) + "\n" for row in trained.history),
            )
            files.write_text(folder / SETTINGS, to_yaml(config))  # the last: complete
            shown = "  ".join(f"{name} {s:.3f}" for name, s in scores["expert"].items())
            observer.note(
                f"{task.name}: validation {shown}  "
                f"({time.perf_counter() - start:.0f} s) -> {folder}"
            )
    return console.DONE


def _is_complete(folder: pathlib.Path, config: TrainConfig) -> bool:
    """Whether an expert with these very settings was trained and validated."""
    path = folder / SETTINGS
    return path.is_file() and path.read_text(encoding="utf-8") == to_yaml(config)


def _validate(config, folder, model, program, weights, tasks):
    """Accuracy of base and expert on every task's `validate` problems."""
    expert = load_expert(folder, model)
    basis = compute_basis(model.weights, [expert])
    engine = Engine(program, model.tokenizer, engine_shape(config.engine))
    with Evaluator(
        engine=engine,
        weights=weights,
        basis=basis,
        tasks=tasks,
        sandbox=open_sandbox(config.sandbox),
        mode="factored",
        individuals_per_pass=2,
    ) as evaluator:
        models = {"base": base_genome(basis), "expert": expert_genome(basis, 0)}
        return mean_scores(evaluator.evaluate(models, Split.VALIDATE))


def _card(config: TrainConfig, task: str, scores, last: StepMetrics) -> str:
    lines = [
        f"# LoRA expert for {task}",
        "",
        f"Trained by `python -m experiments.train_experts` from `{config.base_model}` "
        f"on {config.problems.train} generated problems (problem seed "
        f"{config.problems.seed}), seed {config.seed}; all settings are in "
        "`training.yaml`, the loss of every step in `history.jsonl`.",
        "",
        f"Loss at the last step ({last.step}): {last.loss:.4f} nats per answer token.",
        "",
        f"| accuracy on `validate` ({config.problems.validate_} problems a task) "
        "| base | expert |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {scores['base'][name]:.3f} | {scores['expert'][name]:.3f} |"
        for name in scores["base"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
