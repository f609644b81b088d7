"""Training HemaX, told top to bottom: examples -> patches -> loss -> weights.

In stages. In the first, masks are taught by expert and synthetic masks and by boxes alone (projection loss); then the
network draws masks for the other pictures, those that agree with the human boxes are kept (`pseudo_labels`), and the second
stage learns from all; half-way, synthetic fields join. Last, the layer that reads cytoplasm colour is fitted (`cytoplasm_colour_head`).
What step k sees depends on the seed, k and the process's rank only, so a killed training resumes to the same result.

One process a device; several with `torchrun --nproc-per-node N -m hemax_batch train …`, gradients averaged.
"""

from __future__ import annotations

import copy
import csv
import math
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import DataError
from ...model import checkpoint
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
    echo=print,
    start: Path | None = None,
    early: EarlyStopping | None = None,
    teacher: Path | None = None,
) -> HemaX:
    """Train and return the network with averaged (EMA) weights, in eval mode.

    `work` keeps the log (log.csv), the state to resume from (state.pt) and the pseudo-masks; it belongs to the recipe and
    the examples from the first step on, and DataError refuses it to others. Steps: build, resume if there is a state,
    stage one, pseudo-masks, stage two, cytoplasm colour; of no steps, the last alone. ValueError for an unknown architecture. With `early`, the
    average that did best on its examples; it checks once all examples have joined. With `teacher`, weights, there is no
    stage one: masks, and the types of cells whose label leaves them open, are drawn by those.
    """
    process_group = ProcessGroup.join(device)
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model, start_card = (
        checkpoint.load(start, arch_to_train=recipe.arch) if start else (build(recipe.arch), None)
    )
    same_backbone = start_card and ARCHITECTURES[start_card.arch].backbone == model.cfg.backbone
    if recipe.pretrained and not same_backbone and hasattr(model.backbone, "load_imagenet"):
        model.backbone.load_imagenet()
    model = model.to(process_group.device, memory_format=torch.channels_last).train()
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


def _seed(*numbers: int) -> int:
    """One number of several, for torch."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class Trainer:
    """The moving parts of one training: weights, their average, the optimiser and the step. `lessons`: the examples'
    digest."""

    def __init__(
        self,
        model: HemaX,
        recipe: Recipe,
        work: Path,
        process_group: ProcessGroup,
        echo,
        early: EarlyStopping | None,
        examples_digest: str,
    ):
        self.model, self.recipe, self.work, self.process_group, self.echo = (
            model,
            recipe,
            work,
            process_group,
            echo,
        )
        self.early, self.examples_digest = early, examples_digest
        backbone = list(model.backbone.parameters())
        rest = [p for n, p in model.named_parameters() if not n.startswith("backbone.")]
        self.optimiser = torch.optim.AdamW(
            [{"params": backbone, "peak": recipe.backbone_lr}, {"params": rest, "peak": recipe.lr}],
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            fused=process_group.device.type == "cuda",
        )
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
        """All steps, in their stages."""
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
        """Of these examples, on this process's device."""
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
        """Steps up to `until`, or to where `early` ends them; the next batch is drawn in a thread while this one is
        learnt. Losses stay on the device until they are logged: asking for them waits for it."""
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

    def _draw_batch(self, sampler: PatchSampler, step: int):
        """This process's share of step `step`'s batch; a pure function of seed, step and rank."""
        r = self.recipe
        large = np.random.default_rng([r.seed, step, 1_000_003]).random() < r.large_share
        rng = np.random.default_rng([r.seed, step, self.process_group.rank])
        size = r.large_canvas_px if large else r.canvas_px
        return sampler.batch(rng, r.batch // self.process_group.size, size)

    def _training_step(self, pixels: Tensor, targets: Targets) -> dict[str, Tensor]:
        device, r = self.process_group.device, self.recipe
        if self.step >= r.freeze_norm * r.steps and not self.norm_is_frozen:
            self._synchronise_norms()
            for m in self.model.modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.eval()
            self.norm_is_frozen = True
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * self._schedule()
        torch.manual_seed(
            _seed(r.seed, self.step, self.process_group.rank)
        )  # which blocks `drop_path` leaves out
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            output = self.model(pixels)
        losses = criterion(output, targets, r.attributes)
        self.optimiser.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        self.process_group.average_gradients(self.model)
        nn.utils.clip_grad_norm_(self.model.parameters(), r.clip)
        self.optimiser.step()
        self._update_average(min(r.ema, (1 + self.step) / (10 + self.step)))
        return {k: v.detach() for k, v in losses.items()}

    @torch.no_grad()
    def _update_average(self, decay: float) -> None:
        state = self.model.state_dict()
        moving = [k for k, v in state.items() if v.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[k] for k in moving], [state[k] for k in moving], 1 - decay
        )
        counts = [k for k, v in state.items() if not v.is_floating_point()]
        torch._foreach_copy_([self.average[k] for k in counts], [state[k] for k in counts])

    def _synchronise_norms(self) -> None:
        """The statistics of batch norm, and their running average, become the mean of all processes', each of which saw
        its own patches only. So what is saved, measured or drawn with is the same network everywhere."""
        moving = {
            k: b
            for k, b in self.model.named_buffers()
            if k in self.average and b.is_floating_point()
        }
        self.process_group.average([*moving.values(), *(self.average[k] for k in moving)])

    def _schedule(self) -> float:
        """Linear warm-up, then half a cosine to 1 % of the peak."""
        r = self.recipe
        if self.step < r.warmup:
            return (self.step + 1) / r.warmup
        done = (self.step - r.warmup) / max(r.steps - r.warmup, 1)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))

    def pseudo_label(self, examples: list[Example], teacher: HemaX | None = None) -> list[Example]:
        """Draw masks with the averaged weights, or masks and types with the `teacher` (once: a finished set is kept for a
        resumed training), and take those kept."""
        folder, done = self.work / "pseudo", self.work / "pseudo" / "done"
        indices = pseudo_candidates(examples)
        if not done.exists():
            network = teacher.to(self.process_group.device) if teacher else self._averaged_copy()
            own_indices = indices[self.process_group.rank :: self.process_group.size]
            mpp, size_px = self.recipe.mpp, max(self.recipe.canvas_px, Recipe.canvas_px)
            write_pseudo_masks(network, examples, own_indices, folder, mpp, size_px)
            if teacher and self.process_group.rank == 0:
                candidates = TorchEngine(
                    fold_batch_norms(network.eval()), str(self.process_group.device)
                )
                write_pseudo_types(
                    candidates, examples, indices, folder, mpp, self.recipe.large_canvas_px
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
        """Another network with the averaged weights."""
        own = copy.deepcopy(
            self.model
        )  # not built anew: that would draw from the training's random numbers
        own.load_state_dict(self.average)
        return own

    def synthetic(self, count: int) -> list[Example]:
        """Synthetic fields, drawn once into the work folder. They join after the pseudo-masks, so that those rest on
        real masks only."""
        from ..data.synthetic_fields import write_synthetic_fields

        folder = self.work / "synthetic"
        if self.process_group.rank == 0 and not (folder / "cells.csv").exists():
            write_synthetic_fields(
                folder, count, self.recipe.seed, self.recipe.large_canvas_px, self.recipe.mpp
            )
        self.process_group.barrier()
        return read_csv_layout(folder)

    def _score(self) -> float:
        """How well the averaged weights do on the examples of `early`."""
        r, score = self.recipe, 0.0
        self._synchronise_norms()
        if self.process_group.rank == 0:
            score = score_weights(
                self.model, self.average, self.early.examples, r.mpp, r.large_canvas_px
            )
        return self.process_group.broadcast_first(score)

    def averaged(self) -> HemaX:
        """The network with its averaged weights: the last ones, or those that did best."""
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
        path = self.work / "log.csv"
        new = not path.exists()
        with open(path, "a", newline="") as f:
            writer = csv.DictWriter(f, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.echo(" ".join(f"{k} {v:g}" if k != "lr" else f"lr {v:.1e}" for k, v in row.items()))

    def _save(self) -> None:
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
        return f"{self.recipe!r}, {f'{self.early}, ' if self.early else ''}examples={self.examples_digest}"

    def resume(self) -> None:
        """Take up the state in the work folder, or leave the first there; DataError if it is of another recipe or of other
        examples."""
        path = self.work / "state.pt"
        if not path.exists():
            self._save()  # pseudo-masks and synthetic fields come into the folder before the first steps are done
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
