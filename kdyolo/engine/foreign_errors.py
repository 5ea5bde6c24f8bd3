"""Errors of Ultralytics and PyTorch in our words: no network, no source, no GPU, images of other channels. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from kdyolo.errors import CheckpointError, ConfigError, DatasetError, KDYOLOError
from kdyolo.utils.text import quoted

_NO_GPU = ("Found no NVIDIA driver", "No CUDA GPUs are available", "not compiled with CUDA enabled")
_FETCHED = re.compile(r"Download failure for (\S+?)\.? (?:Environment|\S*retry|Retry|.*)", re.DOTALL)
_ABSENT = re.compile(r"'?(.+?)'? does not exist")
_EMPTY = re.compile(r"No images or videos found in (.+?)\. ")
_OPTIMIZER = re.compile(r"Optimizer (.*) not found in list of available optimizers \{(.*?)\}", re.DOTALL)
_NO_SOURCE = ("Unsupported image type", "No images found in source", "Failed to open", "prediction source type")
_A_SOURCE = "Expected an image, folder, video, glob, URL, array or tensor, or a list of images."
_SUFFIX = re.compile(r"(.+?) acceptable suffix is (.+?), not ")
_WORD = re.compile(r"\.\w+")
_FORMAT = re.compile(r"Invalid export format='(.*)'\. Valid formats are \((.*?)\)", re.DOTALL)
_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")


def explained(error: BaseException) -> KDYOLOError | None:
    """An error of ours that says what an error from below means and what to do; None if it is not known here."""
    text = str(error)
    if isinstance(error, ConnectionError) and (found := _FETCHED.search(text)):
        return _not_fetched(found[1])
    if isinstance(error, FileNotFoundError) and (found := _EMPTY.search(text)):
        return DatasetError(
            f"{found[1]}: there are no images or videos in it. Expected an image, a video, or a folder with some."
        )
    if isinstance(error, FileNotFoundError) and (found := _ABSENT.fullmatch(text.strip())):
        return DatasetError(f"{found[1]}: no such file or folder. Expected an image, folder, video, glob or URL.")
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return DatasetError(f"{error.filename}: no such file or folder. Expected an image, folder, video, glob or URL.")
    if isinstance(error, (TypeError, OSError)) and any(words in text for words in _NO_SOURCE):
        return DatasetError(f"source: there is nothing to predict in it ({quoted(error)}). {_A_SOURCE}")
    if isinstance(error, AssertionError) and (found := _SUFFIX.search(text)):
        suffixes = " or ".join(_WORD.findall(found[2]))
        return CheckpointError(f"{found[1]}: expected a file whose name ends in {suffixes}.")
    if isinstance(error, ValueError) and (found := _FORMAT.search(text)):
        return ConfigError(f"format={found[1]} is none that Ultralytics exports to. Expected one of {found[2]}.")
    if isinstance(error, (RuntimeError, AssertionError)) and any(words in text for words in _NO_GPU):
        return ConfigError(
            "there is no GPU that PyTorch can use. Take --device cpu, or look at 'kdyolo doctor' and 'nvidia-smi'."
        )
    if isinstance(error, NotImplementedError) and (found := _OPTIMIZER.search(text)):
        return ConfigError(f"optimizer={found[1]} is none that Ultralytics knows. Expected one of {found[2]}.")
    if isinstance(error, RuntimeError) and (found := _CHANNELS.search(text)):
        return DatasetError(
            f"the model takes images of {found[1]} channels, and got such of {found[2]}. Expected "
            f"'channels: {found[1]}' in the data set YAML, or a model for these images."
        )
    return None


def _not_fetched(address: str) -> KDYOLOError:
    name = PurePosixPath(address).name
    if name.endswith(".pt"):
        return CheckpointError(
            f"{name}: no such file here, and it cannot be fetched from {address}: there is no network, or no such "
            "file. Copy it into the current folder, or give its path."
        )
    return DatasetError(f"{address}: it cannot be fetched: there is no network, or nothing there. Give a local file.")


@contextmanager
def foreign_errors_explained() -> Iterator[None]:
    """Raise errors from below as ours where they are known.

    Raises:
        KDYOLOError: In place of such an error.
    """
    try:
        yield
    except KDYOLOError:
        raise
    except Exception as e:
        if (ours := explained(e)) is None:
            raise
        raise ours from e
