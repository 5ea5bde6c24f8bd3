"""Devices of a run: Ultralytics' device setting and the environment, read into what each process computes on. No torch.

Every command that takes a device reads it here. A number means what it means to PyTorch, and so to Ultralytics: the
position among the visible GPUs. Numbers beyond their count are taken for those that ``CUDA_VISIBLE_DEVICES`` names,
which is how people write them (``CUDA_VISIBLE_DEVICES=4,5 kdyolo train --device 4,5``).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from kdyolo.errors import ConfigError
from kdyolo.utils.system import IDLE_GPU, idle_gpus, visible_gpus

Kind = Literal["cpu", "cuda", "mps", "other"]

EXPECTED = "Expected cpu, mps, the number of a GPU such as 0 or cuda:0, several such as 0,1, or -1 for an idle one."
# What torchrun sets for each of its processes, and what a process group needs.
OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_UNSIGNED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
_OTHER = ("npu", "xpu", "tpu", "intel", "vulkan")  # Ultralytics knows them; kdyolo hands them on
_IDLE = IDLE_GPU
_UUID = ("gpu-", "mig-")


@dataclass(frozen=True)
class Machine:
    """What a device setting is read against.

    Attributes:
        gpus: Number of GPUs that PyTorch sees.
        visible: ``CUDA_VISIBLE_DEVICES``; None if it is not set.
        mps: Whether PyTorch can compute on an Apple GPU.
        idle: Finds PyTorch's numbers of idle GPUs, as many as it is asked for or fewer.
    """

    gpus: int = 0
    visible: str | None = None
    mps: bool = False
    idle: Callable[[int], Sequence[int]] = lambda count: ()

    @classmethod
    def here(cls) -> Machine:
        """This machine, as PyTorch and this process's environment have it."""
        gpus, mps = visible_gpus()
        return cls(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"), mps, idle_gpus)

    @property
    def there(self) -> str:
        """What GPUs there are, as the end of a message."""
        seen = "0 only" if self.gpus == 1 else f"0 to {self.gpus - 1}" if self.gpus else "none that PyTorch can use"
        by = "" if self.visible is None else f" (CUDA_VISIBLE_DEVICES={self.visible})"
        return f"there is {seen}{by}.{'' if self.gpus else ' Use cpu.'}"


@dataclass(frozen=True)
class Rank:
    """Place of this process among those of a run.

    Attributes:
        local: Number of this process among those of its machine, from 0.
        local_world: Number of processes on this machine; None if the environment does not say.
    """

    local: int
    local_world: int | None = None


@dataclass(frozen=True)
class Devices:
    """What a device setting asks for.

    Attributes:
        kind: Kind of the devices.
        text: The setting as Ultralytics takes it; empty: Ultralytics' default. The numbers are PyTorch's.
        indices: PyTorch's numbers of the GPUs that are named; empty if none is.
        processes: Processes to start for the run, each on a device of its own; 1 in a process that has been started.
        mine: Device of this process if it is one of several of a run, such as ``"cuda:1"``; else None.
    """

    kind: Kind
    text: str
    indices: tuple[int, ...] = ()
    processes: int = 1
    mine: str | None = None

    @property
    def here(self) -> str:
        """The device of this process as PyTorch names it, such as ``"cuda:1"``; of several the first."""
        if self.mine or self.kind != "cuda":
            return self.mine or self.text or self.kind
        return f"cuda:{self.indices[0] if self.indices else 0}"

    @property
    def for_command(self) -> str:
        """The setting as another kdyolo command takes it."""
        return ",".join([self.text] * self.processes) if self.kind == "cpu" else self.text


def one_device(setting: Any, what: str, machine: Machine) -> str:
    """The device of something that works on a single one, as Ultralytics takes it.

    Args:
        setting: The setting in any form that Ultralytics takes.
        what: What works on it, for the message: a noun.
        machine: What the setting is read against.

    Raises:
        ConfigError: It names several devices, or see :func:`read_devices`.
    """
    return _single(setting, what, machine).text


def one_torch_device(setting: Any, what: str, machine: Machine) -> str:
    """The same device as PyTorch names it, such as ``"cuda:1"``; the default is the first GPU, else the CPU."""
    return _single(setting, what, machine).here


def _single(setting: Any, what: str, machine: Machine) -> Devices:
    found = read_devices(setting, machine, {})
    if found.processes > 1:
        raise ConfigError(f"device: {what} works on one device; found {setting}. Expected one such as 0.")
    return found


def read_places(settings: Sequence[Any], machine: Machine) -> tuple[Devices, ...]:
    """Read device settings of which each is for another run.

    Args:
        settings: Settings in any form that Ultralytics takes. Whether their numbers are PyTorch's or those of
            ``CUDA_VISIBLE_DEVICES`` is decided for all of them together.
        machine: What the settings are read against.

    Raises:
        ConfigError: See :func:`read_devices`.
    """
    words = [device_names(setting) for setting in settings]
    number_of = _numbers([word for group in words for word in group], machine)
    return tuple(_named(group, number_of, machine) for group in words)


def read_devices(setting: Any, machine: Machine, environment: Mapping[str, str]) -> Devices:
    """Read a device setting; a function of its arguments alone.

    Args:
        setting: None or ``""`` for the default, ``"cpu"``, ``"mps"``, a number, ``"cuda:0"``, ``"0,1"``, ``[2, 3]``,
            ``"[2,3]"``, a UUID that ``CUDA_VISIBLE_DEVICES`` names, ``"-1"`` for an idle GPU (``"-1,-1"`` for two);
            ``"cpu,cpu"`` are two processes on the CPU.
        machine: What the setting is read against.
        environment: Environment variables of the process, which say whether it is one of several.

    Raises:
        ConfigError: The setting is not understood, names what is not there, or does not fit the number of processes;
            or the environment has half of what one of several processes needs.
    """
    rank = read_rank(environment)
    words = device_names(setting)
    if rank and _IDLE in words:
        raise ConfigError(
            "device: -1 cannot be chosen by several processes, each for itself. Name the GPUs, as in --device 0,1."
        )
    found = _named(words, _numbers(words, machine), machine)
    return replace(found, processes=1, mine=_of_rank(rank, found, machine)) if rank else found


def read_rank(environment: Mapping[str, str]) -> Rank | None:
    """The place of this process among those of a run, as torchrun tells it; None if it is alone.

    Args:
        environment: Environment variables of the process.

    Raises:
        ConfigError: Some of the variables are missing, or are no numbers.
    """
    given = [name for name in ("RANK", "LOCAL_RANK") if environment.get(name, "-1") != "-1"]
    if not given:
        return None
    if missing := [name for name in OF_A_RANK if not environment.get(name)]:
        raise ConfigError(
            f"{' and '.join(given)} {'are' if given[1:] else 'is'} set in the environment, as for one of several "
            f"processes, but {', '.join(missing)} {'are' if missing[1:] else 'is'} not. Start the command with "
            f"torchrun, which sets them all; set {', '.join(missing)}; or unset {' and '.join(given)} to train in one "
            "process."
        )
    for name in _UNSIGNED:
        if (value := environment.get(name)) is not None and not value.strip().isdecimal():
            raise ConfigError(f"{name}={value} in the environment: expected a whole number from 0, as torchrun has it.")
    local_world = environment.get("LOCAL_WORLD_SIZE")
    return Rank(int(environment["LOCAL_RANK"]), int(local_world) if local_world else None)


def device_names(setting: Any) -> list[str]:
    """The devices that a setting names, each in one form: ``"cpu"``, ``"mps"``, ``"cuda"``, ``"3"``, a UUID, ``"-1"``.

    Args:
        setting: The setting in any form that Ultralytics takes.

    Raises:
        ConfigError: A word is not understood, kinds are mixed, or a GPU is named twice.
    """
    if isinstance(setting, (bool, float)):
        raise ConfigError(f"device: found {setting!r}. {EXPECTED}")
    parts = setting if isinstance(setting, (list, tuple)) else [setting]
    text = ",".join(str(part) for part in parts if part is not None).translate(str.maketrans("", "", "()[]'\" "))
    if text.lower().startswith(_OTHER):  # the numbers after the first belong to it
        return [text.lower()]
    words = [_word(word, setting) for word in text.split(",") if word and word.lower() != "none"]
    kinds = {_kind(word) for word in words}
    if len(kinds) > 1 or (len(words) > 1 and {"mps", "cuda"} & set(words)):
        raise ConfigError(f"device: {setting} mixes devices of several kinds. {EXPECTED}")
    if twice := [word for word, count in Counter(words).items() if count > 1 and word not in ("cpu", _IDLE)]:
        raise ConfigError(f"device: GPU {', '.join(twice)} is named twice in {setting}. Each process needs its own.")
    return words


def _word(word: str, setting: Any) -> str:
    lower = word.lower()
    if lower.startswith(_UUID):
        return word
    name, _, number = lower.rpartition(":")
    if name in ("", "cuda") and number.isdecimal():
        return str(int(number))
    if lower in ("cpu", "cpu:0", "mps", "mps:0", "cuda", _IDLE):
        return lower.partition(":")[0]
    where = "" if word == setting else f" in {setting!r}"
    raise ConfigError(f"device: {word!r}{where} is not understood. {EXPECTED}")


def _kind(word: str) -> Kind:
    if word.startswith(_OTHER):
        return "other"
    return "cpu" if word == "cpu" else "mps" if word == "mps" else "cuda"


def _numbers(words: Sequence[str], machine: Machine) -> dict[str, list[int]]:
    """PyTorch's numbers of the GPUs that words name; as many as asked for of the word that stands for idle ones.

    Args:
        words: All words that are read together, of one setting or several.
        machine: What they are read against.
    """
    names = [name for name in (machine.visible or "").replace(" ", "").split(",") if name][: machine.gpus]
    known = [str(int(name)) if name.isdecimal() else name for name in names]
    digits = [word for word in words if word.isdecimal()]
    beyond = [word for word in digits if int(word) >= machine.gpus]
    if beyond and not set(digits) <= set(known):
        missing = [word for word in beyond if word not in known] or beyond
        raise ConfigError(f"device: GPU {', '.join(missing)} does not exist; {machine.there}")
    found = {word: [known.index(word) if beyond else int(word)] for word in digits}
    found |= {word: [_number_of_uuid(word, names)] for word in words if word.lower().startswith(_UUID)}
    if wanted := list(words).count(_IDLE):
        found[_IDLE] = [number for number in machine.idle(wanted) if [number] not in found.values()]
        if len(found[_IDLE]) < wanted:
            few = f"{wanted} idle GPU(s) asked for, {len(found[_IDLE])} found"
            raise ConfigError(f"device: {few}; {machine.there} Name a GPU, or wait.")
    if "cuda" in words and not machine.gpus:
        raise ConfigError(f"device: a GPU was asked for; {machine.there}")
    return found


def _number_of_uuid(uuid: str, names: Sequence[str]) -> int:
    """The position of a GPU among the visible ones, which may be named by the beginning of a UUID."""
    for number, name in enumerate(name.lower() for name in names):
        if name.startswith(_UUID) and (uuid.lower().startswith(name) or name.startswith(uuid.lower())):
            return number
    raise ConfigError(
        f"device: {uuid} is not among the visible GPUs. Choose a GPU or a part of one in the environment: "
        f"CUDA_VISIBLE_DEVICES={uuid} kdyolo … --device 0"
    )


def _named(words: Sequence[str], number_of: Mapping[str, list[int]], machine: Machine) -> Devices:
    """The devices that the words of one setting name, in a process that is alone."""
    kind: Kind = _kind(words[0]) if words else "cuda" if machine.gpus else "cpu"
    if kind == "mps" and not machine.mps:
        raise ConfigError("device: mps does not exist on this machine. Use cpu.")
    if not words:
        return Devices(kind, "")
    if kind != "cuda":
        return Devices(kind, words[0], processes=len(words))
    indices = tuple(number_of[word].pop(0) if word == _IDLE else number_of[word][0] for word in words if word != "cuda")
    return Devices(kind, ",".join(map(str, indices)) or "0", indices, max(len(indices), 1))


def _of_rank(rank: Rank, found: Devices, machine: Machine) -> str:
    """The device of one of several processes, each of which has its own.

    Raises:
        ConfigError: There are more processes than GPUs, or fewer than are named.
    """
    if found.kind == "cpu":
        return "cpu"
    if found.kind != "cuda":
        raise ConfigError(f"device: several processes cannot train on {found.text}. Use one process, or cpu.")
    mine = found.indices or tuple(range(machine.gpus))
    count = rank.local_world or rank.local + 1
    if count > len(mine) or (found.indices and rank.local_world and count < len(mine)):
        there = f"--device names {found.text}" if found.indices else machine.there.rstrip(".")
        raise ConfigError(
            f"device: each of the {count} processes on this machine needs a GPU of its own, but {there}. Start one "
            "process for each GPU (torchrun --nproc-per-node), or name as many GPUs as there are processes."
        )
    return f"cuda:{mine[rank.local]}"
