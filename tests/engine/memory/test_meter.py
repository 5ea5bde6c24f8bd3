"""Meters of memory, with a mock in the place of torch.cuda; and which errors say that memory ran out."""

from __future__ import annotations

from unittest.mock import Mock, call

import pytest
import torch

from kdyolo.engine.memory import meter
from kdyolo.engine.memory.meter import AcceleratorMemory, ProcessMemory, is_out_of_memory, meter_of


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory, says a person"), False),
    ],
    ids=lambda value: str(value)[:20],
)
def test_which_errors_say_so(error, said):
    assert is_out_of_memory(error) is said


def test_a_gpu_is_measured_since_the_last_reset(monkeypatch):
    cuda, device = Mock(), torch.device("cuda", 1)
    cuda.max_memory_allocated.return_value = 3 * 2**30
    monkeypatch.setattr(meter, "get_torch_device_backend", lambda asked: cuda)
    memory = meter_of(device)
    assert isinstance(memory, AcceleratorMemory)
    assert memory.may_run_out
    memory.reset()
    assert memory.peak() == 3 * 2**30
    memory.release()
    memory.finish()
    assert cuda.mock_calls == [
        call.reset_peak_memory_stats(device),
        call.max_memory_allocated(device),
        call.empty_cache(),
        call.synchronize(device),
    ]


@pytest.mark.parametrize("name", ["cpu", "mps"])
def test_elsewhere_it_is_the_memory_of_the_process(name):
    memory = meter_of(torch.device(name))
    assert isinstance(memory, ProcessMemory)
    assert not memory.may_run_out
    assert memory.peak() > 1 << 20
