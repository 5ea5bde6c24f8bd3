"""Loop of a distillation: AdamW under a cosine schedule, seeds for each epoch, held-out images, checkpoints."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdyolo.distillation.feature_cache import CacheKey
from kdyolo.distillation.losses import LOSSES
from kdyolo.distillation.plan import DistillPlan
from kdyolo.distillation.run.backbone_file import backbone_metadata, backbone_tensors, write_checkpoint
from kdyolo.distillation.run.cache_filling import complete_cache, filling_alone, settle_projection
from kdyolo.distillation.run.held_out import HeldOutImages
from kdyolo.distillation.run.results import append_row
from kdyolo.distillation.run.state import DistillState
from kdyolo.distillation.targets import LevelTarget, LiveTargets, TargetSource
from kdyolo.distillation.teachers.projected_teacher import ProjectedTeacher, projection_of
from kdyolo.distillation.views import ViewOptions, Views, ViewSet, stack_views
from kdyolo.errors import RunError
from kdyolo.runs.contents.readers import check_optimizer_state, damage_explained
from kdyolo.runs.files import BEST_NAME, LAST_NAME, RESULTS_NAME, STATE_NAME, weights_file
from kdyolo.runs.process_control import finished_first, raise_if_told_to_end
from kdyolo.utils import distributed

LOGGER = logging.getLogger("ultralytics")
_STATISTICS = 64  # batches that the targets' statistics are measured on, at most
_LOWEST = 0.01  # of the learning rate, where the schedule ends


@dataclass(frozen=True)
class Place:
    """Where this process computes, as one of how many.

    Attributes:
        device: Its device.
        rank: Its number, from 0.
        ranks: Number of processes of the run.
    """

    device: torch.device
    rank: int = 0
    ranks: int = 1


class DistillLoop:
    """Trains the student of a plan, in a folder that is there.

    Args:
        plan: The plan.
        folder: The run folder.
        place: Where this process computes.
        source: Where targets come from; None: the plan's teacher runs along.

    Attributes:
        epoch: Number of finished epochs.
        best: Lowest loss on the held-out images so far.
        floors: Level → centred cosine of its position alone; see :mod:`kdyolo.distillation.run.held_out`.
        proof: What is measured on the held-out images.
    """

    def __init__(self, plan: DistillPlan, folder: Path, place: Place, source: TargetSource | None = None) -> None:
        options = plan.options
        self.plan, self.options, self.folder, self.place = plan, options, folder, place
        self.epoch, self.best = 0, math.inf
        self.live = LiveTargets(plan.teacher, plan.taps, options.imgsz, place.device, options.amp)
        self.source: TargetSource = source or self.live
        self.student = plan.student.to(place.device)
        if place.device.type == "cpu":
            self.student.use_nhwc()
        self.loss = LOSSES[options.loss]
        decayed, others = _by_decay(self.student)
        groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
        fused = place.device.type == "cpu" or None  # there a third of the time; torch chooses elsewhere
        self.optimizer = torch.optim.AdamW(groups, lr=options.lr, fused=fused)
        half = options.amp and place.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=half and not torch.cuda.is_bf16_supported())
        self._precision = torch.bfloat16 if half and torch.cuda.is_bf16_supported() else torch.float16 if half else None
        model: nn.Module = self.student
        if options.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        self.model = distributed.wrap_ddp(model, place.device, all_trains=True) if place.ranks > 1 else model
        shown = ViewOptions(
            options.imgsz, plan.teacher.size, options.resize, options.crop, options.flip, options.colour
        )
        still = ViewOptions(options.imgsz, plan.teacher.size, options.resize)
        self.train_set = ViewSet(plan.split.train, shown, options.seed)
        self.held_out = ViewSet(plan.split.held_out, still, options.seed)
        self.proof = HeldOutImages(
            *(self.student, self.source, self.loss, tuple(plan.taps), len(self.held_out), self.held_out_batches),
            files=plan.split.held_out,
            objects=plan.objects,
        )
        self.floors: dict[str, float] = {}
        self._projection: str | None = None  # of a resumed run, the one that it began with
        self.batches = len(plan.split.train) // options.batch
        self.steps = math.ceil(self.batches / options.accumulate) * options.epochs

    def use_cache(self) -> None:
        """Take the teacher's features from the cache; those that it lacks all processes compute first.

        Raises:
            RunError: There is no space, the features are not the teacher's, or the run began with another projection.
        """
        plan, options, place = self.plan, self.options, self.place
        key = CacheKey.of(plan.teacher, plan.taps.values(), options.resize, options.cache_precision)
        files = (*plan.split.train, *plan.split.held_out)
        folder, ranks = Path(str(options.cache)).expanduser(), (place.rank, place.ranks)
        with nullcontext() if place.rank else filling_alone(folder / key.folder):
            if isinstance(plan.teacher, ProjectedTeacher):
                settle_projection(folder / key.folder, plan.teacher, self._still_batches)
            if self._projection not in (None, projection_of(plan.teacher)):
                raise RunError(
                    f"{self.folder} cannot be resumed: the PCA in {folder / key.folder} is not the one that it began "
                    "with. Put that cache back, or start a new run."
                )
            cache = complete_cache(folder, key, self.live, files, options.batch, options.workers, ranks)
        self.train_set.use(cache)
        self.held_out.use(cache)

    @classmethod
    def of(cls, plan: DistillPlan, folder: Path, place: Place, state: DistillState | None) -> DistillLoop:
        """A loop at its beginning, or at the end of the epoch that was saved."""
        loop = cls(plan, folder, place)
        if state is not None:
            loop.apply(state)
        return loop

    def train(self, told: Callable[[Mapping[str, float]], object] = lambda row: None) -> None:
        """Train until the last epoch; after each, measure on the held-out images and save.

        Args:
            told: Gets each row of ``results.csv`` once it is saved, in the first process.

        Raises:
            RunError: The loss is no longer finite.
        """
        began = time.monotonic()
        if self.options.cache:
            self.use_cache()
        if not self.epoch:
            self.live.measure(self.measured_batches())
            self.floors = self.proof.floors(self._still_batches()) if self.place.rank == 0 else {}
        while self.epoch < self.options.epochs:
            loss = self._train_epoch()
            rate = self.optimizer.param_groups[0]["lr"]
            held_out = self.proof.measure() if self.place.rank == 0 else {}
            self._check_finite(loss, held_out)
            self.epoch += 1
            if self.place.rank == 0:
                row = {
                    "epoch": self.epoch,
                    "time": time.monotonic() - began,
                    "train/loss": loss,
                    **held_out,
                    **{f"floor/{level}": value for level, value in self.floors.items()},
                    "lr/pg0": rate,
                }
                with finished_first():
                    self._save(row)
                told(row)
                cosines = ", ".join(f"{level} {held_out[f'cosine/{level}']:.2f}" for level in self.plan.taps)
                LOGGER.info(
                    f"epoch {self.epoch}/{self.options.epochs}: loss {loss:.4f}, held out {held_out['val/loss']:.4f}, "
                    f"centred cosine {cosines}"
                )

    # ---- an epoch ----------------------------------------------------------------------------------------------------

    def _train_epoch(self) -> float:
        seed_of_epoch(self.options.seed, self.epoch, self.place.rank)
        self.model.train()
        total = torch.zeros((), device=self.place.device)
        generator = torch.Generator()
        for number, views in enumerate(self._train_batches(), start=1):
            raise_if_told_to_end()
            generator.manual_seed(_drawn(self.options.seed, self.epoch, number))
            mixed = views.mixture(self.options.mixup, generator)
            stepping = number % self.options.accumulate == 0 or number == self.batches
            total += self._forward_backward(mixed, self._group_size(number), stepping)
            if stepping:
                self._step()
        mean = float(total) / self.batches
        self._check_finite(mean, {})
        return mean

    def _check_finite(self, loss: float, held_out: Mapping[str, float]) -> None:
        """Refuse to go on from a loss, or with columns of ``results.csv``, that are NaN or Inf."""
        values = {"the loss": loss, **{f"{name} on held-out images": value for name, value in held_out.items()}}
        wrong = next((name for name, value in values.items() if not math.isfinite(value)), None)
        if wrong is not None:
            raise RunError(
                f"{wrong} is {values[wrong]} in epoch {self.epoch + 1}: it diverged. Start again with a smaller --lr "
                f"(it was {self.options.lr:g}) or with --clip."
            )

    def learn(self, views: Views) -> Tensor:
        """One step of the optimizer on one batch, and its loss."""
        loss = self._forward_backward(views, 1, stepping=True)
        self._step()
        return loss

    def _forward_backward(self, views: Views, group: int, stepping: bool) -> Tensor:
        targets = self.source(views)
        waiting = nullcontext() if stepping or self.place.ranks == 1 else self.model.no_sync()  # type: ignore[operator]
        with waiting:
            loss = self.level_losses(views, targets).mean()
            self.scaler.scale(loss / group).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def level_losses(self, views: Views, targets: list[LevelTarget]) -> Tensor:
        """Loss of each taught level."""
        kind, on = self._precision or torch.float32, self._precision is not None
        with torch.autocast(self.place.device.type, kind, enabled=on):
            predicted = self.model(views.student)
        pairs = zip(predicted, targets, strict=True)
        return torch.stack([self.loss(p.float(), target.values, target.weight) for p, target in pairs])

    def _step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self._steps_done)
        self.scaler.unscale_(self.optimizer)
        if self.options.clip:
            nn.utils.clip_grad_norm_(self.student.parameters(), self.options.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._in_epoch += 1

    def rate(self, step: int) -> float:
        """Learning rate of a step of the optimizer, counted from 0: a linear rise, then half a cosine."""
        rise = max(round(self.options.warmup * self.steps), 1)
        if step < rise:
            return self.options.lr * (step + 1) / rise
        through = (step - rise) / max(self.steps - rise, 1)
        return self.options.lr * (_LOWEST + (1 - _LOWEST) * (1 + math.cos(math.pi * min(through, 1.0))) / 2)

    # ---- batches -----------------------------------------------------------------------------------------------------

    def _train_batches(self) -> Iterator[Views]:
        """This rank's share of the batches of the epoch, whose order follows from seed and epoch."""
        self._in_epoch = 0
        self.train_set.epoch = self.epoch + 1
        order = np.random.default_rng([self.options.seed, self.epoch]).permutation(len(self.train_set))
        size = self.options.batch
        mine = [
            order[i * size : (i + 1) * size][self.place.rank :: self.place.ranks].tolist() for i in range(self.batches)
        ]
        return self._load(self.train_set, mine)

    def measured_batches(self) -> Iterator[Views]:
        """Batches that the targets' statistics are measured on: the same on every rank, drawn as in training."""
        self.train_set.epoch = 0
        order = np.random.default_rng([self.options.seed]).permutation(len(self.train_set))
        size = self.options.batch
        count = min(self.batches, _STATISTICS)
        return self._load(self.train_set, [order[i * size : (i + 1) * size].tolist() for i in range(count)])

    def held_out_batches(self) -> Iterator[Views]:
        """The held-out images, whole and unchanged, in order."""
        size, count = self.options.batch, len(self.held_out)
        return self._load(self.held_out, [list(range(i, min(i + size, count))) for i in range(0, count, size)])

    def _still_batches(self) -> Iterator[Views]:
        """Some images to learn from, whole and unchanged, in order."""
        size, files = self.options.batch, self.train_set.files[: self.options.batch * _STATISTICS]
        still = ViewSet(files, self.held_out.options, self.options.seed)
        still.use(self.train_set.cache)
        return self._load(still, [list(range(i, min(i + size, len(files)))) for i in range(0, len(files), size)])

    def _load(self, views: ViewSet, batches: list[list[int]]) -> Iterator[Views]:
        loader = DataLoader(
            views,
            batch_sampler=batches,
            collate_fn=stack_views,
            num_workers=self.options.workers,
            pin_memory=self.place.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # its own: drawing from the process's would shift what follows
        )
        return (batch.to(self.place.device) for batch in loader)

    @property
    def _steps_done(self) -> int:
        return self.epoch * math.ceil(self.batches / self.options.accumulate) + self._in_epoch

    _in_epoch = 0

    def _group_size(self, number: int) -> int:
        """Number of batches in the group that batch ``number`` (from 1) steps with; the last one may be smaller."""
        group = self.options.accumulate
        last = self.batches - self.batches % group
        return group if number <= last else self.batches - last

    # ---- after an epoch ----------------------------------------------------------------------------------------------

    def _save(self, row: dict[str, float]) -> None:
        """Row, checkpoints and state, the state last: until it is there, the epoch will be run again."""
        append_row(self.folder / RESULTS_NAME, row)
        tensors = backbone_tensors(self.student.backbone, self.plan.untrained)
        metadata = backbone_metadata(self.plan, self.epoch)
        write_checkpoint(weights_file(self.folder, LAST_NAME), tensors, metadata)
        if row["val/loss"] < self.best:
            self.best = row["val/loss"]
            write_checkpoint(weights_file(self.folder, BEST_NAME), tensors, metadata)
        self.state().save(weights_file(self.folder, STATE_NAME))

    def state(self) -> DistillState:
        """Everything that the run continues from. Tensors are shared with it, not copied: save at once."""
        return DistillState(
            epoch=self.epoch,
            options=self.options.to_dict(),
            data=list(self.plan.data),
            teacher=self.plan.teacher_text,
            teacher_digest=self.plan.teacher.digest,
            student=self.student.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            statistics={level: list(pair) for level, pair in self.live.statistics.items()},
            floors=self.floors,
            best=self.best,
            images=len(self.train_set),
            threads=torch.get_num_threads(),
            ranks=self.place.ranks,
            projection=projection_of(self.plan.teacher),
            images_digest=self.plan.split.digest,
        )

    def apply(self, state: DistillState) -> None:
        """Put the loop to the end of the epoch that was saved.

        Raises:
            RunError: Images, teacher or number of processes are not those of the run.
        """
        found: list[tuple[str, Any, Any]] = [
            ("images to learn from", state.images, len(self.train_set)),
            ("processes", state.ranks, self.place.ranks),
            ("weights of the teacher, sha256", state.teacher_digest[:12], self.plan.teacher.digest[:12]),
        ]
        if state.images_digest:
            own = self.plan.split.digest
            found.append(("names and sizes of the images, sha256", state.images_digest[:12], own[:12]))
        if wrong := [f"{what}: it had {then}, here there are {now}" for what, then, now in found if then != now]:
            raise RunError(f"{self.folder} cannot be resumed: {'; '.join(wrong)}. Put back what it had.")
        with damage_explained(weights_file(self.folder, STATE_NAME)):
            self.student.load_state_dict(state.student)
            self.optimizer.load_state_dict(state.optimizer)
            check_optimizer_state(self.optimizer)
            if state.scaler:
                self.scaler.load_state_dict(state.scaler)
            self.live.take(state.statistics)
        self.epoch, self.best, self.floors = state.epoch, state.best, state.floors
        self._projection = state.projection


def seed_of_epoch(seed: int, epoch: int, rank: int) -> None:
    """Start an epoch from seeds that follow from the run's seed, the epoch and the rank."""
    drawn = _drawn(seed, epoch, rank)
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)


def _drawn(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _by_decay(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters with weight decay, and norms and biases, which have none."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
