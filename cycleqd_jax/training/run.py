"""The training of all experts of a config: checks first, then one after another.

An expert is put together beside its place and renamed into it, so it is whole or
absent; a training that was killed goes on from its last checkpoint.
"""

import json
import time
from typing import NamedTuple

import jax

from cycleqd_jax import files
from cycleqd_jax.models.experts import FullExpert
from cycleqd_jax.models.formats.peft import LoraFactor, save_lora
from cycleqd_jax.models.llama.program import Weights
from cycleqd_jax.models.loading import load_expert
from cycleqd_jax.models.sharding import put_on_device
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.export import export_model
from cycleqd_jax.runs.trackers import MetricsLogger, open_loggers
from cycleqd_jax.training import full, lora
from cycleqd_jax.training.batches import Batches
from cycleqd_jax.training.card import card
from cycleqd_jax.training.checkpoints import TrainCheckpoints
from cycleqd_jax.training.plan import ExpertPlan, Status, write_facts
from cycleqd_jax.training.prepare import (
    Job,
    Prepared,
    lora_settings,
    prepare,
)
from cycleqd_jax.training.settings import TrainConfig
from cycleqd_jax.training.sft import TrainedExpert, Training, train
from cycleqd_jax.training.sources import Source
from cycleqd_jax.training.step import StepMetrics
from cycleqd_jax.training.validate import (
    Scores,
    validate_full,
    validate_lora,
)
from cycleqd_jax.training.work_folder import WorkFolder

_NOTE_EVERY = 10  # steps


def train_experts(config: TrainConfig, observer: Observer) -> None:
    """Trains, validates and writes every expert that is not complete.

    Args:
      config: the settings.
      observer: hears of phases, steps and scores.

    Raises:
      BadInputError: a setting, source or folder is wrong; for any expert this is said
        before the first is trained.
      RunError: a training cannot go on; its checkpoints stay.
    """
    prepared, jobs = prepare(config, observer)
    weights: Weights = {}
    for job in jobs:
        name = job.plan.name
        if job.status is Status.COMPLETE:
            observer.note(f"{name} is complete in {job.plan.folder}, kept as it is")
            if job.plan.work.is_dir():  # killed between its last two steps
                with WorkFolder(job.plan.work) as work:
                    work.remove()
            continue
        if not weights and config.method == "lora":
            weights = put_on_device(prepared.model.weights)
        start = time.perf_counter()
        with (
            WorkFolder(job.plan.work) as work,
            open_loggers(
                config.logging.to,
                job.plan.folder.parent / "logs" / name,
                project=config.logging.project,
                settings=config.model_dump(mode="json"),
                note=observer.note,
            ) as logger,
        ):
            watch = _Watch(name, config.optimiser.steps, observer, logger)
            scores = _make_expert(config, prepared, job, weights, work, watch)
        shown = ""
        if scores is not None:
            pairs = (f"{task} {s:.3f}" for task, s in scores["expert"].items())
            shown = f"validation {'  '.join(pairs)}  "
        observer.note(
            f"{name}: {shown}({time.perf_counter() - start:.0f} s) -> {job.plan.folder}"
        )


class _Watch(NamedTuple):
    """Tells people how the training of one expert goes on."""

    name: str
    steps: int
    observer: Observer
    logger: MetricsLogger

    def restored(self, history: tuple[StepMetrics, ...]) -> None:
        """Steps that an earlier process made; loggers begin anew, so they hear them."""
        self.observer.note(
            f"{self.name} goes on from its checkpoint of step {history[-1].step}"
        )
        for row in history:
            self._log(row)

    def step(self, row: StepMetrics) -> None:
        """One step."""
        self._log(row)
        self.observer.episodes(row.step, self.steps)
        if row.step % _NOTE_EVERY == 0 or row.step == self.steps:
            self.observer.note(
                f"{self.name} step {row.step}/{self.steps}  "
                f"loss {row.loss:.4f}  tokens right {row.token_accuracy:.3f}"
            )

    def _log(self, row: StepMetrics) -> None:
        metrics = {"loss": row.loss, "token_accuracy": row.token_accuracy}
        self.logger.log(metrics, row.step)


def _make_expert(
    config: TrainConfig,
    prepared: Prepared,
    job: Job,
    weights: Weights,
    work: WorkFolder,
    watch: "_Watch",
) -> Scores | None:
    """Trains one expert, or goes on with it; then scores it and gives it its place."""
    name = job.plan.name
    sources = [prepared.sources[source] for source in job.plan.sources]
    if job.status is Status.NEW:
        work.begin()
        write_facts(work.path, config, job.fingerprints)
    watch.observer.phase(f"training {name}")
    keep = 2 if config.method == "lora" else 1  # a full one is 12 bytes a parameter
    with TrainCheckpoints(work.checkpoints, keep=keep) as checkpoints:
        trained = train(
            _training(config, prepared, job.plan, sources, weights),
            checkpoints=checkpoints,
            on_restored=watch.restored,
            on_step=watch.step,
        )
    history, last = trained.history, trained.history[-1]
    watch.observer.phase(f"writing and validating {name}")
    if config.method == "lora":
        scores = _write_lora(config, prepared, job, sources, weights, work, trained)
    else:
        stored = full.to_numpy(trained.params, config.save_dtype)
        del trained  # its memory is needed for the validation
        scores = None
        if prepared.tasks:
            scores = validate_full(
                config,
                FullExpert(stored),
                prepared.model,
                prepared.program,
                prepared.tasks,
            )
        export_model(
            work.empty_expert(),
            prepared.model.config,
            stored,
            prepared.model.tokenizer,
            card(config, job.plan, sources, last, scores),
        )
    files.write_text(
        work.expert / "history.jsonl",
        "".join(json.dumps(row._asdict()) + "\n" for row in history),
    )
    if scores is not None:
        found = {f"validate/{task}": s for task, s in scores["expert"].items()}
        watch.logger.result(found, last.step)
    write_facts(work.expert, config, job.fingerprints)
    work.finish(job.plan.folder)
    return scores


def _write_lora(
    config: TrainConfig,
    prepared: Prepared,
    job: Job,
    sources: list[Source],
    weights: Weights,
    work: WorkFolder,
    trained: TrainedExpert,
) -> Scores | None:
    factors = {
        name: LoraFactor(b, a, lora_settings(config).scale)
        for name, (b, a) in lora.to_numpy(trained.params).items()
    }

    def save(text: str) -> None:
        save_lora(
            work.expert,
            factors,
            base_name=config.base_model,
            card=text,
            dtype=config.save_dtype,
        )

    work.empty_expert()
    save("Being validated.")
    scores = None
    if prepared.tasks:
        scores = validate_lora(
            config,
            load_expert(work.expert, prepared.model),
            prepared.model,
            prepared.program,
            weights,
            prepared.tasks,
        )
    save(card(config, job.plan, sources, trained.history[-1], scores))
    return scores


def _training(
    config: TrainConfig,
    prepared: Prepared,
    plan: ExpertPlan,
    sources: list[Source],
    weights: Weights,
) -> Training:
    key = jax.random.fold_in(jax.random.key(config.seed), plan.number)
    init_key, order_key = jax.random.split(key)
    settings = lora_settings(config)
    is_lora = config.method == "lora"
    return Training(
        program=prepared.program,
        weights=weights,
        method=lora.Lora(settings.scale) if is_lora else full.Full(config.dtype),
        init=lambda: (
            lora.init_factors(prepared.program, settings, init_key)
            if is_lora
            else full.init_masters(prepared.model.weights)
        ),
        batches=Batches(
            [source.examples for source in sources],
            list(plan.sources.values()),
            batch_size=config.optimiser.batch_size,
            steps=config.optimiser.steps,
            seed=int(jax.random.bits(order_key)),
            packing=config.packing,
            multiple_of=config.optimiser.accumulate_steps,
        ),
        optimiser=config.optimiser,
        recompute=config.gradient_checkpointing,
    )
