"""The files of an exported individual: a whole model, and an adapter of its base."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.files import shipped
from cycleqd_jax.files.remote import is_url
from cycleqd_jax.merging.adapter_plan import AdapterPlan
from cycleqd_jax.models.formats.hf_folder import (
    export_model,
    export_segmentation_model,
)
from cycleqd_jax.models.formats.peft_export import export_adapter
from cycleqd_jax.models.loading import LoadedModel
from cycleqd_jax.models.locate import is_hub_name, locate
from cycleqd_jax.progress import Observer
from cycleqd_jax.reports.model_card import ModelCard
from cycleqd_jax.runs.opened import OpenedRun

_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of its --max-lora-rank


def write_adapter(
    plan: AdapterPlan,
    approximate: bool,
    target: pathlib.Path,
    target_name: str,
    opened: OpenedRun,
    model: LoadedModel,
    card: ModelCard,
    observer: Observer,
) -> None:
    """Writes an individual as a PEFT adapter, or says why there is none.

    Args:
      plan: the adapter.
      approximate: whether it may lose a part of the change.
      target: the folder of the whole model; the adapter is put below it.
      target_name: its name for the user, perhaps a URL.
      opened: the run.
      model: the base model.
      card: of the individual.
      observer: is told what happens.
    """
    if not plan.factors:
        observer.note("no adapter: the experts change no matrix that it could hold")
        return
    remark = ""
    if not plan.is_exact:
        loss = plan.describe_loss()
        if not approximate:
            observer.note(
                f"no adapter: it would lose {loss}; --approximate writes it all the "
                "same"
            )
            return
        observer.note(f"the adapter is approximate: it loses {loss}")
        remark = (
            f"\n**Approximate**: this adapter loses {loss}, in squared Frobenius norm. "
            "The whole model is in the folder above it.\n"
        )
    source = opened.config.base_model
    base, base_name = shipped.find(source), None
    if is_hub_name(source) and model.is_own:
        base, base_name = locate(source), source
    elif not model.is_own or not (base / "config.json").is_file():
        if is_url(target_name):
            observer.note(
                "no adapter: its base would be the weights as they were loaded from "
                f"{source}; export to a folder on this machine for that"
            )
            return
        base = target / "base"
        observer.phase(f"writing the base weights to {base}")
        base_card = f"# Base weights\n\n`{source}` as it was loaded.\n"
        write_model(base, model, model.weights, base_card)
    observer.phase(f"writing the adapter to {target / 'adapter'}")
    export_adapter(
        target / "adapter",
        plan.factors,
        base,
        card=card.adapter_text(base_name or os.fspath(base.resolve()), remark),
        base_name=base_name,
        segmentation=model.tokenizer is None,
    )
    if model.tokenizer is not None:
        observer.note(serving(plan.rank))


def serving(rank: int) -> str:
    """The flag with which vLLM takes an adapter of a rank, in a sentence."""
    room = next((n for n in _VLLM_RANKS if n >= rank), None)
    if room is None:
        largest = _VLLM_RANKS[-1]
        return (
            f"the adapter has rank {rank}; vLLM takes up to {largest}, so serve the "
            f"whole model, or cut the adapter with --max-rank {largest}"
        )
    return (
        f"the adapter has rank {rank}; for vLLM: --enable-lora --max-lora-rank {room}"
    )


def write_model(
    target: pathlib.Path, model: LoadedModel, weights: Mapping[str, Any], card: str
) -> None:
    """A model of the base's kind; see `export_model`."""
    if model.tokenizer is None:
        export_segmentation_model(target, model.config, weights, card)
    else:
        export_model(target, model.config, weights, model.tokenizer, card)
