"""Agreement of ranks: what goes wrong on one of them is raised on all, instead of being waited for by the others.

A rank that raises leaves the others in their next collective, where they wait as long as the process group allows. What
all ranks do at the same time therefore ends with an agreement, which is a collective itself and so a barrier too.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed as dist

from kdyolo.utils import distributed


def is_sharing() -> bool:
    """Whether this process has joined others, with which it can exchange values."""
    return distributed.is_distributed() and dist.is_available() and dist.is_initialized()


def agree(error: Exception | None = None) -> None:
    """Say how this rank fared, and hear how all fared; every rank calls it, at the same point of the run.

    Args:
        error: What went wrong here; None if nothing did.

    Raises:
        Exception: What went wrong here, or on the first other rank where something did.
    """
    known = error if error is None else _portable(error)
    errors = distributed.from_all_ranks(known) if is_sharing() else []
    for found in (error, *errors):
        if found is not None:
            vars(found)["known_to_all_ranks"] = True
            raise found


@contextmanager
def in_agreement() -> Iterator[None]:
    """Leave a block together with all other ranks: what one of them raises in it is raised on each."""
    try:
        yield
    except Exception as error:
        if is_sharing() and not is_known(error):
            agree(error)
        raise
    agree()


def is_known(error: Exception) -> bool:
    """Whether all ranks have heard of an error, because one of their agreements raised it."""
    return bool(vars(error).get("known_to_all_ranks"))


def _portable(error: Exception) -> Exception:
    """The error itself if another process can read it, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a foreign class does when it is pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
