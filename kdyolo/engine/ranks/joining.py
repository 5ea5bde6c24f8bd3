"""Joining of the processes that torchrun started for an evaluation, which all of them then share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as dist

from kdyolo.engine.ranks.agreement import in_agreement, is_sharing
from kdyolo.runs.lifecycle.devices import Machine, one_device, read_devices
from kdyolo.utils import distributed
from kdyolo.utils.ultralytics_patches import evaluating_on


@contextmanager
def joined_for_evaluation(setting: Any) -> Iterator[dict[str, str]]:
    """Share what runs here with the other processes of this run, if torchrun has started several.

    All of them leave together, so that none ends while rank 0 still scores.

    Args:
        setting: The device setting in any form that Ultralytics takes; of several processes it may name the devices of
            all, of which each takes its own.

    Yields:
        The device setting for this process, as Ultralytics takes it: ``{"device": …}``, or nothing.

    Raises:
        ConfigError: The setting or the environment is not understood, or names what is not there.
    """
    if not distributed.is_distributed() or is_sharing():
        yield {} if setting is None else {"device": one_device(setting, "an evaluation", Machine.here())}
        return
    device = torch.device(str(read_devices(setting, Machine.here(), os.environ).mine))
    distributed.init_process_group(device)
    try:
        with in_agreement(), evaluating_on(device):
            yield {"device": str(device.index if device.type == "cuda" else device.type)}
    finally:
        dist.destroy_process_group()
