"""Training of HemaX from top to bottom: examples, patches, loss, weights.

Training has stages. In the first stage masks are learnt from expert and synthetic masks, and from
boxes alone (projection loss). The network then draws masks for the other images. Those that agree
with the labelled boxes are kept (`pseudo_labels`), and the second stage trains on all. Synthetic
fields join half-way. Last, the cytoplasm colour head is fitted (`cytoplasm_colour`). The batch of a
step depends on the seed, the step and the process's rank only, so a killed training resumes to the
same result.

There is one process per device. `torchrun --nproc-per-node N -m hemax_batch train …` starts
several, whose gradients are averaged.
"""

from __future__ import annotations

import copy
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import DataError
from ...model import checkpoint
from ...model.backbone import EfficientNetLite0
from ...model.engines.torch_engine import TorchEngine
from ...model.hemax import ARCHITECTURES, HemaX, build, fold_batch_norms
from ...model.losses import criterion
from ...model.matcher import Targets
from ..data.csv_layout import read_csv_layout
from ..data.examples import Example
from ..data.sampler import PatchSampler
from .cytoplasm_colour import fit_cytoplasm_colour
from .distributed import ProcessGroup
from .early_stopping import EarlyStopping, score_weights
from .learning_curves import append_log_row
from .optimisation import (
    combine_seeds,
    freeze_norms,
    learning_rate_factor,
    make_optimiser,
    update_average,
)
from .pseudo_labels import (
    apply_pseudo_labels,
    pseudo_candidates,
    write_pseudo_masks,
    write_pseudo_types,
)
from .recipe import Recipe, short_hash


def train(
    examples: list[Example],
    recipe: Recipe,
    work: Path,
    device: str = "cpu",
    echo: Callable[[str], None] = print,
    start: Path | None = None,
    early: EarlyStopping | None = None,
    teacher: Path | None = None,
) -> HemaX:
    """Train a network and return it with averaged (EMA) weights, in eval mode.

    Steps: build the network; resume if there is a state; stage one; pseudo-masks; stage two;
    cytoplasm colour. A recipe of 0 steps does the last step only.

    Parameters
    ----------
    examples
        Examples to train on.
    recipe
        The recipe.
    work
        Folder for the log (log.csv), the state (state.pt) and the pseudo-masks. It belongs to one
        recipe and one set of examples.
    device
        "cpu" or "cuda".
    echo
        Prints progress.
    start
        Weights to start from.
    early
        Early stopping; the result is then the average with the best score.
    teacher
        Weights that draw missing masks and predict open types; there is then no stage one.

    Raises
    ------
    DataError
        `work` belongs to another recipe or other examples.
    ValueError
        The architecture is unknown.
    """
    process_group = ProcessGroup.join(device)
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model, start_card = (
        checkpoint.load(start, arch_to_train=recipe.arch) if start else (build(recipe.arch), None)
    )
    same_backbone = start_card and ARCHITECTURES[start_card.arch].backbone == model.cfg.backbone
    if recipe.pretrained and not same_backbone and isinstance(model.backbone, EfficientNetLite0):
        model.backbone.load_imagenet()
    channels_last: Any = {"memory_format": torch.channels_last}
    model = model.to(process_group.device, **channels_last).train()
    model.backbone.drop_path = recipe.drop_path
    model.backbone.style_mixing = recipe.style_mixing
    if recipe.compiled:
        model.backbone.compile()
    trainer = Trainer(
        model,
        recipe,
        work,
        process_group,
        echo,
        early,
        short_hash(examples, early.examples if early else []),
    )
    trainer.resume()
    if recipe.steps:
        trainer.run_stages(examples, start, early, teacher)
    trained = trainer.averaged()
    if trained.cytoplasm_colour_head is not None and recipe.attributes and process_group.rank == 0:
        fit_cytoplasm_colour(trained, examples, recipe, echo)
    return trained


class Trainer:
    """One training: weights, their average, the optimiser and the step.

    Parameters
    ----------
    examples_digest
        Digest of the examples, part of the state's description.
    """

    def __init__(
        self,
        model: HemaX,
        recipe: Recipe,
        work: Path,
        process_group: ProcessGroup,
        echo: Callable[[str], None],
        early: EarlyStopping | None,
        examples_digest: str,
    ) -> None:
        self.model, self.recipe, self.work = model, recipe, work
        self.process_group, self.echo = process_group, echo
        self.early, self.examples_digest = early, examples_digest
        on_gpu = process_group.device.type == "cuda"
        self.optimiser = make_optimiser(model, recipe, fused=on_gpu)
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.step = 0
        self.norm_is_frozen = False

    def run_stages(
        self,
        examples: list[Example],
        start: Path | None,
        early: EarlyStopping | None,
        teacher: Path | None,
    ) -> None:
        """Run all steps in their stages."""
        recipe = self.recipe
        if teacher:
            recipe, examples = (
                replace(recipe, first_stage=0.0),
                self.pseudo_label(examples, checkpoint.load(teacher)[0]),
            )
        stage_two_start = int(recipe.steps * recipe.first_stage)
        if self.step < stage_two_start:
            self.run_steps(self.sampler(examples), stage_two_start)
        if not teacher and (recipe.first_stage > 0 or start):
            examples = self.pseudo_label(examples)
        if recipe.synthetic:
            synthetic_start = int(recipe.steps * recipe.synthetic_from)
            if self.step < synthetic_start:
                self.run_steps(self.sampler(examples, recipe.hard), synthetic_start)
            examples = examples + self.synthetic(recipe.synthetic)
        if self.step < recipe.steps:
            self.run_steps(self.sampler(examples, recipe.hard), recipe.steps, early)

    def sampler(self, examples: list[Example], hard: float = 1.0) -> PatchSampler:
        """Make a sampler of examples on this process's device."""
        return PatchSampler(
            examples,
            self.recipe.mpp,
            hard,
            self.process_group.device,
            self.recipe.stain,
            self.recipe.as_stained,
        )

    def run_steps(
        self, sampler: PatchSampler, until: int, early: EarlyStopping | None = None
    ) -> None:
        """Run steps up to `until`, or until early stopping ends them.

        A thread draws the next batch during a step. Losses stay on the device until they are
        logged, because reading them waits for it.
        """
        started = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            next_batch = pool.submit(self._draw_batch, sampler, self.step)
            while self.step < until and not (early and early.should_stop):
                pixels, targets = next_batch.result()
                if self.step + 1 < until:
                    next_batch = pool.submit(self._draw_batch, sampler, self.step + 1)
                losses = self._training_step(pixels, targets)
                self.step += 1
                if early and (self.step % early.every == 0 or self.step == self.recipe.steps):
                    early.check(self.step, self._score(), self.average)
                is_last = self.step == until or bool(early and early.should_stop)
                if self.step % 20 == 0 or is_last:
                    loss_values = torch.stack(list(losses.values())).tolist()
                    self._log(
                        dict(zip(losses, loss_values, strict=True)), time.monotonic() - started
                    )
                if self.step % 200 == 0 or is_last:
                    self._synchronise_norms()
                    self._save()

    def _draw_batch(self, sampler: PatchSampler, step: int) -> tuple[Tensor, Targets]:
        """Draw this process's share of a step's batch, a pure function of seed, step and rank."""
        r = self.recipe
        large = np.random.default_rng([r.seed, step, 1_000_003]).random() < r.large_share
        rng = np.random.default_rng([r.seed, step, self.process_group.rank])
        size = r.large_canvas_px if large else r.canvas_px
        return sampler.batch(rng, r.batch // self.process_group.size, size)

    def _training_step(self, pixels: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Update the weights with one batch; return the losses."""
        device, r = self.process_group.device, self.recipe
        if self.step >= r.freeze_norm * r.steps and not self.norm_is_frozen:
            self._synchronise_norms()
            freeze_norms(self.model)
            self.norm_is_frozen = True
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * learning_rate_factor(self.step, r)
        # This seed decides which blocks `drop_path` skips.
        torch.manual_seed(combine_seeds(r.seed, self.step, self.process_group.rank))
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            output = self.model(pixels)
        losses = criterion(output, targets, r.attributes)
        self.optimiser.zero_grad(set_to_none=True)
        total: Any = sum(losses.values())
        total.backward()
        self.process_group.average_gradients(self.model)
        nn.utils.clip_grad_norm_(self.model.parameters(), r.clip)
        self.optimiser.step()
        decay = min(r.ema, (1 + self.step) / (10 + self.step))
        update_average(self.average, self.model.state_dict(), decay)
        return {k: v.detach() for k, v in losses.items()}

    def _synchronise_norms(self) -> None:
        """Average batch-norm statistics, and their moving average, over all processes.

        Each process saw its own patches only. The saved, evaluated and teaching network is then the
        same in all processes.
        """
        moving = {
            k: b
            for k, b in self.model.named_buffers()
            if k in self.average and b.is_floating_point()
        }
        self.process_group.average([*moving.values(), *(self.average[k] for k in moving)])

    def pseudo_label(self, examples: list[Example], teacher: HemaX | None = None) -> list[Example]:
        """Draw pseudo-masks and add those that pass the check.

        The averaged weights draw them, or the `teacher`, which predicts types too. A finished set
        is kept for a resumed training.
        """
        folder, done = self.work / "pseudo", self.work / "pseudo" / "done"
        indices = pseudo_candidates(examples)
        if not done.exists():
            network = teacher.to(self.process_group.device) if teacher else self._averaged_copy()
            own_indices = indices[self.process_group.rank :: self.process_group.size]
            mpp, size_px = self.recipe.mpp, max(self.recipe.canvas_px, Recipe.canvas_px)
            write_pseudo_masks(network, examples, own_indices, folder, mpp, size_px)
            if teacher and self.process_group.rank == 0:
                engine = TorchEngine(
                    fold_batch_norms(network.eval()), str(self.process_group.device)
                )
                write_pseudo_types(
                    engine, examples, indices, folder, mpp, self.recipe.large_canvas_px
                )
            self.process_group.barrier()
            if self.process_group.rank == 0:
                done.write_text(self._description(), "utf-8")
            self.process_group.barrier()
        elif done.read_text("utf-8") != self._description():
            raise DataError(
                f"{folder} has the masks of another training; use another --work folder"
            )
        labelled = apply_pseudo_labels(examples, folder)
        candidates = Counter(examples[i].source for i in indices)
        kept = Counter(labelled[i].source for i in indices if labelled[i].mask_path)
        if self.process_group.rank == 0:
            self.echo(
                "pseudo-masks kept: "
                + ", ".join(f"{s} {kept[s]}/{n}" for s, n in candidates.items())
            )
        return labelled

    def _averaged_copy(self) -> HemaX:
        """Return a copy of the network with the averaged weights."""
        # Building a new network would use up the training's random numbers.
        network = copy.deepcopy(self.model)
        network.load_state_dict(self.average)
        return network

    def synthetic(self, count: int) -> list[Example]:
        """Draw synthetic fields into the work folder, once, and read them.

        They join after the pseudo-masks, which then rest on real masks only.
        """
        from ..data.synthetic_fields import write_synthetic_fields

        folder = self.work / "synthetic"
        if self.process_group.rank == 0 and not (folder / "cells.csv").exists():
            write_synthetic_fields(
                folder, count, self.recipe.seed, self.recipe.large_canvas_px, self.recipe.mpp
            )
        self.process_group.barrier()
        return read_csv_layout(folder)

    def _score(self) -> float:
        """Score the averaged weights on the held-out examples."""
        r, score = self.recipe, 0.0
        self._synchronise_norms()
        if self.process_group.rank == 0 and self.early:
            score = score_weights(
                self.model, self.average, self.early.examples, r.mpp, r.large_canvas_px
            )
        return self.process_group.broadcast_first(score)

    def averaged(self) -> HemaX:
        """Return the network with averaged weights: the last, or those with the best score."""
        if self.early and self.early.weights and self.process_group.rank == 0:
            ended = "stopped" if self.early.should_stop else "ended"
            self.echo(
                f"{ended} at step {self.step}; kept: step {self.early.best_step} ({self.early.best:.4f})"
            )
        self.model.load_state_dict(
            self.early.weights if self.early and self.early.weights else self.average
        )
        return self.model.eval()

    def _log(self, losses: dict[str, float], seconds: float) -> None:
        """Add a row to the log and print it."""
        if self.process_group.rank:
            return
        row = {
            "step": self.step,
            "seconds": round(seconds, 1),
            "lr": self.optimiser.param_groups[1]["lr"],
            "loss": round(sum(losses.values()), 4),
            **{k: round(v, 4) for k, v in losses.items()},
        }
        if self.early:
            row |= {"check": round(self.early.last, 4), "best_step": self.early.best_step}
        append_log_row(self.work / "log.csv", row)
        self.echo(" ".join(f"{k} {v:g}" if k != "lr" else f"lr {v:.1e}" for k, v in row.items()))

    def _save(self) -> None:
        """Save the state; it is written aside and renamed."""
        if self.process_group.rank:
            return
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "recipe": self._description(),
        }
        if self.early:
            state["early"] = self.early.state()
        partial = self.work / "state.pt.partial"
        torch.save(state, partial)
        os.replace(partial, self.work / "state.pt")

    def _description(self) -> str:
        """Describe recipe, early stopping and examples, which a resumed training must match."""
        return f"{self.recipe!r}, {f'{self.early}, ' if self.early else ''}examples={self.examples_digest}"

    def resume(self) -> None:
        """Resume from the state in the work folder, or save the first one.

        Raises
        ------
        DataError
            The state is of another recipe or of other examples.
        """
        path = self.work / "state.pt"
        if not path.exists():
            # Pseudo-masks and synthetic fields may be written before the first step is done.
            self._save()
            return
        state = torch.load(path, map_location=self.process_group.device, weights_only=True)
        if state["recipe"] != self._description():
            raise DataError(
                f"{path} is of another recipe or of other examples ({state['recipe']}); use another --work folder, or the "
                "same options and data"
            )
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        if self.early:
            self.early.resume(state["early"])
        if self.process_group.rank == 0:
            self.echo(f"resumed at step {self.step}")
