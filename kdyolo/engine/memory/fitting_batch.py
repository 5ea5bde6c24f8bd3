"""Batch that fits into a device's memory once everything trains, found by measured steps that leave no trace.

Ultralytics halves the batch when memory runs out in the first epoch, with a warning only. Then an arm that trains all
of its layers has half the batch of one that is frozen, and nothing says so. Here such a batch ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from ultralytics.utils.torch_utils import autocast, unwrap_model

from kdyolo.engine.memory.meter import MemoryMeter, is_out_of_memory
from kdyolo.errors import ConfigError, RunError
from kdyolo.models.freezing import BackboneFreezer
from kdyolo.utils import distributed

NEVER_HALVE = 3  # Ultralytics' count of halved batches, after which it halves no more


class Measurable(Protocol):
    """What a trainer has that its steps are measured by, once it is set up.

    Attributes:
        model: Model that trains, not wrapped for several ranks.
        optimizer: Its optimizer, before the first step.
        args: Ultralytics' settings.
        amp: Whether precision is mixed.
        device: Device that trains.
        memory: Its memory.
        freezer: Freeze schedule applied.
        epochs: Number of epochs of the run.
        batch_size: Images to a batch on all ranks together, as asked for or as AutoBatch chose.
        world_size: Number of ranks; 0 or 1 for one.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    args: Any
    amp: Any
    device: torch.device
    memory: MemoryMeter
    freezer: BackboneFreezer
    epochs: int
    batch_size: int
    world_size: int

    def densest_batch(self, images: int) -> dict[str, Any]:
        """A batch that takes as much memory as any of the run, on the device."""


def loss_of(trainer: Measurable, batch: Mapping[str, Any]) -> Tensor:
    """Loss of a batch that is on the device, computed as the training loop does: compiled and in its precision."""
    with autocast(torch.bfloat16 if trainer.args.amp == "bf16" else trainer.amp, device=trainer.device.type):
        if trainer.args.compile:
            loss, _ = unwrap_model(trainer.model).loss(batch, trainer.model(batch["img"]))
        else:
            loss, _ = trainer.model(batch)
        return loss.sum()  # type: ignore[no-any-return]


def batch_in_use(trainer: Measurable) -> int:
    """Images to a batch on all ranks together: less than was asked for, where ranks cannot share that evenly."""
    return distributed.shared_evenly(trainer.batch_size, trainer.world_size)


def refuse_autobatch(batch: float, ranks: int) -> None:
    """Refuse AutoBatch for several ranks: it measures one device, and Ultralytics would divide what asks for it.

    Raises:
        ConfigError: It was asked for.
    """
    if ranks > 1 and batch < 1:
        raise ConfigError(
            f"batch {batch}: AutoBatch chooses for a single device, and this run has {ranks}. Expected the number of "
            f"images on all of them together, e.g. --batch {16 * ranks}."
        )


def fitting_batch(trainer: Measurable, devices: int = 1) -> int:
    """The largest batch, of all ranks together, up to the one in use, of which a step fits when everything trains.

    Every rank measures its share on its own device, and all of them get the same result. A step is forward, loss,
    backward and the optimizer's state, while gradients of a step before still wait. Nothing of it remains: weights,
    BatchNorm statistics, random state, gradients and optimizer are as they were, to the bit.

    Args:
        trainer: Trainer that is set up.
        devices: Number of devices that the run is to have, where this is a rehearsal on one of them.

    Returns:
        Number of images; 0 if not even one fits on each rank.
    """
    ranks = max(trainer.world_size, 1)
    with _left_as_it_was(trainer):
        exchanged = max(ranks, devices) > 1
        share = largest_that_fits(lambda images: _fits(trainer, images, exchanged), trainer.batch_size // ranks)
    return ranks * min(distributed.from_all_ranks(share))


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 0 to ``most`` that fits, of which every smaller one does; 0 is not tried."""
    if fits(most):
        return most
    fitting, too_large = 0, most
    while too_large - fitting > 1:
        middle = (fitting + too_large) // 2
        if fits(middle):
            fitting = middle
        else:
            too_large = middle
    return fitting


def require_fitting_batch(trainer: Measurable) -> None:
    """Refuse a batch that would not fit, now or after the last thaw, before anything has been trained.

    Raises:
        RunError: It does not fit; the message names the batch that does.
    """
    if trainer.memory.may_run_out and (found := fitting_batch(trainer)) < batch_in_use(trainer):
        ranks = max(trainer.world_size, 1)
        raise RunError(f"{does_not_fit(trainer, found // ranks, ranks)} Nothing was trained.")


def does_not_fit(trainer: Measurable, fitting: int, ranks: int) -> str:
    """What is to be done about a batch that does not fit.

    Args:
        trainer: Trainer whose steps were measured.
        fitting: Most images that fit on each device; 0 for none.
        ranks: Number of devices that the run has.
    """
    each = f" ({fitting} on each of {ranks} devices)" if ranks > 1 else ""
    advice = (
        f"Use --batch {fitting * ranks}{each}, which does."
        if fitting
        else "Not even a single image does: use a smaller --imgsz or --model, or a device with more memory."
    )
    return (
        f"out of memory: batch {trainer.args.batch} at imgsz {trainer.args.imgsz} does not fit into the memory of "
        f"{trainer.device} once everything trains, measured by a step. {advice}"
    )


def _fits(trainer: Measurable, images: int, exchanged: bool) -> bool:
    """Whether a step with so many images fits on this device."""
    try:
        fits = _take_steps(trainer, images, exchanged)
    finally:  # also what a failed step had begun, whose frames are gone by now
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.optimizer.state.clear()
        trainer.memory.release()
    return fits


def _take_steps(trainer: Measurable, images: int, exchanged: bool) -> bool:
    """One step of the optimizer, and the next batch while its gradients wait; False if memory runs out."""
    parameters = [p for group in trainer.optimizer.param_groups for p in group["params"] if p.requires_grad]
    try:
        buckets = gradient_buckets(parameters) if exchanged else []
        batch = trainer.densest_batch(images)
        torch.autograd.backward(loss_of(trainer, batch))
        for parameter in parameters:  # so that no weight becomes infinite
            if parameter.grad is not None:
                parameter.grad.zero_()
        optimizer = trainer.optimizer
        type(optimizer).step(optimizer)  # past the scheduler, which counts the calls of ``optimizer.step``
        torch.autograd.backward(loss_of(trainer, batch))
        trainer.memory.finish()
        del buckets
    except RuntimeError as e:
        if not is_out_of_memory(e):
            raise
        return False
    return True


def gradient_buckets(parameters: Iterable[torch.nn.Parameter]) -> list[Tensor]:
    """Room for the copy of all gradients through which ranks exchange them; the model here is not wrapped for that.

    Args:
        parameters: Parameters of which those that train count, as ``DistributedDataParallel`` counts them.
    """
    return [p.detach().clone() for p in parameters if p.requires_grad]


@contextmanager
def _left_as_it_was(trainer: Measurable) -> Iterator[None]:
    """Have everything train that is to train in the last epoch, and then the model as it was, to the bit."""
    model = unwrap_model(trainer.model)
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    modules = [(module, module.training) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    criterion = getattr(model, "criterion", None)
    gpus = [trainer.device] if trainer.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        try:
            trainer.model.train()
            trainer.freezer.apply(model.backbone, trainer.epochs - 1)
            yield
        finally:
            with torch.no_grad():
                for name, tensor in model.state_dict().items():
                    tensor.copy_(tensors[name])
            for module, training in modules:
                module.training = training
            for parameter, trains in parameters:
                parameter.requires_grad_(trains)
            model.criterion = criterion
            trainer.memory.reset()  # the first epoch's peak is that of its own steps
