"""Meter of a device's memory: its peak, and which errors say that it ran out; of a GPU, or of this process."""

from __future__ import annotations

import gc
from typing import Protocol

import psutil
import torch
from ultralytics.utils.torch_utils import get_torch_device_backend

# What Ultralytics' training loop takes for it: cuBLAS and cuDNN fail in words of their own.
_OUT_OF_MEMORY = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "unable to find an engine",
)


class MemoryMeter(Protocol):
    """Memory of the device on which a process computes.

    Attributes:
        may_run_out: Whether a step that is too large ends in an error, as on a GPU, so that it is worth a measurement.
    """

    may_run_out: bool

    def reset(self) -> None:
        """Forget the peak so far."""

    def peak(self) -> int:
        """Bytes: the most that was in use since :meth:`reset`, or what is in use now where nothing counts that."""

    def release(self) -> None:
        """Give back to the device what nothing uses any more."""

    def finish(self) -> None:
        """Wait until the device has done all that it was asked to."""


class AcceleratorMemory:
    """Memory of a GPU, or of another accelerator with PyTorch's allocator.

    Args:
        device: The accelerator.
    """

    may_run_out = True

    def __init__(self, device: torch.device) -> None:
        self._device, self._backend = device, get_torch_device_backend(device)

    def reset(self) -> None:
        """Forget the peak so far."""
        self._backend.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        """Bytes: the most that tensors took since :meth:`reset`."""
        return int(self._backend.max_memory_allocated(self._device))

    def release(self) -> None:
        """Give what PyTorch's allocator keeps back to the device."""
        gc.collect()
        self._backend.empty_cache()

    def finish(self) -> None:
        """Wait until the device has done all that it was asked to."""
        self._backend.synchronize(self._device)


class ProcessMemory:
    """Memory of this process, which computes on the CPU or shares its memory with a GPU (``mps``)."""

    may_run_out = False

    def reset(self) -> None:
        """Do nothing: a process has no peak that could be forgotten."""

    def peak(self) -> int:
        """Bytes that are resident now."""
        return int(psutil.Process().memory_info().rss)

    def release(self) -> None:
        """Collect garbage."""
        gc.collect()

    def finish(self) -> None:
        """Do nothing: a CPU has done what it was asked to."""


def meter_of(device: torch.device) -> MemoryMeter:
    """The meter of a device's memory."""
    return ProcessMemory() if device.type in {"cpu", "mps"} else AcceleratorMemory(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory ran out."""
    text = str(error)
    return isinstance(error, RuntimeError) and (
        isinstance(error, torch.cuda.OutOfMemoryError)
        or _OUT_OF_MEMORY[0] in text.lower()
        or any(words in text for words in _OUT_OF_MEMORY[1:])
    )
