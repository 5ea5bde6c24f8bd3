"""Ultralytics' trainer on several ranks: world size, wrapping, precision and evaluation come from the process group."""

from __future__ import annotations

from typing import Any

import torch
from ultralytics.data import build_dataloader
from ultralytics.engine.trainer import BaseTrainer

from kdyolo.utils import distributed
from kdyolo.utils.ultralytics_patches import as_single_process


class RankTraining(BaseTrainer):  # type: ignore[misc]
    """A training whose process may be one of several; on a single one everything is Ultralytics' own.

    Every override extends the method of the same name of Ultralytics' trainer.
    """

    # Set by Ultralytics' trainer, which carries no type information.
    model: Any
    amp: bool
    scaler: Any
    world_size: int

    _wrapped_for: tuple[bool, ...] = ()  # which parameters trained when the model was last wrapped

    def _setup_ddp(self) -> None:
        """Replace ``_setup_ddp`` by nothing: the process group was joined before anything else."""

    def _build_train_pipeline(self) -> None:
        """Extend ``_build_train_pipeline``: the world size comes from the process group."""
        self.world_size = torch.distributed.get_world_size() if distributed.is_distributed() else self.world_size
        super()._build_train_pipeline()

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """Extend ``get_dataloader``: for evaluation one with all images, since rank 0 evaluates alone."""
        loader = super().get_dataloader(dataset_path, batch_size, rank, mode)
        if mode != "train" and distributed.is_distributed():
            workers = self.args.workers * 2
            loader = build_dataloader(loader.dataset, batch_size, workers, shuffle=False, rank=-1, device=self.device)
        return loader

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
        """Extend ``validate``: on rank 0 alone; the others go on to where they wait for its verdict."""
        if not distributed.is_distributed():
            return super().validate()
        if not distributed.is_rank_zero():
            return None, None
        with as_single_process(self):
            return super().validate()
