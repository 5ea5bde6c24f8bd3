"""Ultralytics' trainer on several ranks: world size, wrapping, precision and evaluation come from the process group.

An evaluation is shared by all ranks and gives what one process would find; see :mod:`kdyolo.engine.ranks.sharding`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import LOGGER

from kdyolo.checkpoints.export import finish_checkpoints
from kdyolo.engine.ranks.agreement import agree, is_known
from kdyolo.engine.ranks.sharding import shard
from kdyolo.utils import distributed
from kdyolo.utils.ultralytics_patches import checkpoints_read_by, evaluating_on

# Images in a batch of an evaluation while training. Ultralytics has twice as many as in a step, on each rank: with many
# ranks these are too few batches to share, and one rank would not have the memory for as many as one process takes.
EVALUATION_BATCH = 32


class RankTraining(BaseTrainer):  # type: ignore[misc]
    """A training whose process may be one of several; on a single one everything is Ultralytics' own.

    Every override extends the method of the same name of Ultralytics' trainer.
    """

    # Set by Ultralytics' trainer, which carries no type information.
    model: Any
    amp: bool
    scaler: Any
    epochs: int
    world_size: int

    _wrapped_for: tuple[bool, ...] = ()  # which parameters trained when the model was last wrapped
    _evaluated = False  # whether all ranks are through with everything but their end

    def _setup_ddp(self) -> None:
        """Replace ``_setup_ddp`` by nothing: the process group was joined before anything else."""

    def _build_train_pipeline(self) -> None:
        """Extend ``_build_train_pipeline``: the world size comes from the process group."""
        self.world_size = torch.distributed.get_world_size() if distributed.is_distributed() else self.world_size
        super()._build_train_pipeline()

    def _setup_scheduler(self) -> None:
        """Extend ``_setup_scheduler``: where time ends the run, every rank has as many epochs as rank 0 expects.

        By its own clock each would have learning rates of its own, and might end alone.
        """
        if self.args.time:
            self.epochs = self.args.epochs = distributed.broadcast(self.epochs)
        super()._setup_scheduler()

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """Extend ``get_dataloader``: for evaluation, this rank's part of what one process would load.

        Images are padded with those that one process has in a batch with them, however many ranks there are.
        """
        if mode == "train":
            return super().get_dataloader(dataset_path, batch_size, rank, mode)
        per_image = batch_size // max(self.batch_size // max(self.world_size, 1), 1)  # Ultralytics: 1 or 2, by task
        loader = super().get_dataloader(dataset_path, per_image * self.batch_size, rank, mode)
        return shard(loader, EVALUATION_BATCH)

    def _setup_train(self) -> None:
        """Extend ``_setup_train``: the model is wrapped later, and rank 0 decides on mixed precision for all.

        Ultralytics would wrap it for a GPU and for what trains now; see :meth:`wrap_for_what_trains`.
        """
        world_size, self.world_size = self.world_size, 0
        try:
            super()._setup_train()
        finally:
            self.world_size = world_size
        if distributed.is_distributed():
            self.amp = distributed.broadcast(self.amp)
            state = self.scaler.state_dict()  # of a resumed run it is that run's by now
            self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp and self.args.amp != "bf16")
            if state:
                self.scaler.load_state_dict(state)

    def wrap_for_what_trains(self) -> None:
        """Wrap the model of one of several ranks anew, if other parameters train than when it was last wrapped."""
        trains = tuple(p.requires_grad for p in self.model.parameters())
        if distributed.is_distributed() and trains != self._wrapped_for:
            self.model = distributed.wrap_ddp(self.model, self.device, bool(self.args.compile))
            self._wrapped_for = trains

    def validate(self) -> Any:
        """Extend ``validate``: all ranks share the evaluation, and rank 0 has its result.

        Ultralytics would average sums of losses with an operation that gloo lacks, whatever each rank's share was; the
        validator adds them up itself.
        """
        if not distributed.is_distributed():
            return super().validate()
        for buffer in self.ema.ema.buffers():  # BatchNorm statistics are each rank's own: those of rank 0 count
            dist.broadcast(buffer, src=0)
        self.stopper.possible_stop = distributed.broadcast(self.stopper.possible_stop)  # only rank 0 asks it; for plots
        world_size, self.world_size = self.world_size, 0
        try:
            return super().validate()
        finally:
            self.world_size = world_size

    def final_eval(self) -> None:
        """Replace ``final_eval``: all ranks share the evaluation of ``best.pt``, which is that of ``kdyolo val``.

        Ultralytics would go on with the precision and the batches of training, and look for the file on every node.
        """
        model = distributed.run_on_rank_zero(self._finished_best)
        if model is not None:
            self.test_loader.reset()  # its worker processes are not needed any more
            self.validator.as_command(plots=self.args.plots)
            with evaluating_on(self.device if distributed.is_distributed() else None):
                self.metrics = self.validator(model=model)
            self.validator.dataloader.close()
            distributed.run_on_rank_zero(self._announce_best)

    def _finished_best(self) -> nn.Module | None:
        """Make the last and the best checkpoint those of plain Ultralytics; the best model, if any."""
        finish_checkpoints(self.last, self.best, self.args.epochs)
        if not self.best.exists():
            return None
        LOGGER.info(f"\nValidating {self.best}...")
        own = partial(torch.load, map_location="cpu", weights_only=False)  # written by this run a moment ago
        with checkpoints_read_by(own):
            model: nn.Module = load_checkpoint(self.best)[0]
        return model

    def _announce_best(self) -> None:
        """Give the metrics of ``best.pt`` to loggers, as those of an epoch after the last."""
        self.metrics.pop("fitness", None)
        self.epoch += 1
        self.run_callbacks("on_fit_epoch_end")
        self.epoch -= 1

    def train(self) -> None:
        """Extend ``train``: no rank ends before rank 0 has written everything, and all end with an error if it fails.

        On several nodes, one whose ranks are gone would leave after minutes, and end the others' by that.
        """
        try:
            super().train()
        except Exception as error:
            if self._evaluated and not is_known(error):  # the others wait in the last line
                agree(error)
            raise
        agree()
