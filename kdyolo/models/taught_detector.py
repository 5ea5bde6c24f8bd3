"""Detector that also learns from another detector: Ultralytics' own distillation, on what both heads read.

Everything that Ultralytics' ``DistillationModel`` does otherwise than a run with a freeze, an exact resume and stock
checkpoints needs is put right here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

from torch import Tensor, nn
from ultralytics.nn.distill_model import DistillationModel

from kdyolo.errors import ModelError
from kdyolo.models.backbone import DistilledBackbone

_PROJECTOR = "projector."
_PROBE_SIZE = 64  # pixels; the channels that the projectors join are the same at any size


class TaughtDetector(DistillationModel):  # type: ignore[misc]
    """A detector with its teacher, which never changes, and the projectors between them, which learn beside it.

    Stands where the detector alone would stand: its backbone, its layers and the names of its tensors are those of the
    student. What differs from Ultralytics' class:

    - The teacher is a module that has been read safely, never a path that is unpickled.
    - ``state_dict`` is the student's with the projectors; the teacher is in a file of its own, and would only make
      every state to resume from as large as itself.
    - Hooks that catch the maps are on the layers during a batch's loss alone, and let go of them after it. Ultralytics
      leaves them there, with the graph of the last batch; they would go along into every checkpoint of the student.

    Args:
        student: Detector that trains, with Ultralytics' settings as ``args``.
        teacher: Detector with a head of the same kind and strides.

    Raises:
        ModelError: The two heads read other strides.
    """

    def __init__(self, student: Any, teacher: Any) -> None:
        if (own := student.stride.tolist()) != (found := teacher.stride.tolist()):
            raise ModelError(
                f"distill_model: the teacher's head reads strides {_words(found)}, that of {student.yaml['yaml_file']} "
                f"{_words(own)}. Expected a detector with the same ones."
            )
        args, student.args = student.args, copy(student.args)
        student.args.imgsz = _PROBE_SIZE  # a whole forward pass of both at the size of the run only to count channels
        try:
            super().__init__(teacher, student)
        finally:
            student.args = args
        self.args = args
        self._remove_feature_hooks()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Extend ``__setstate__``, by which a copy is made, without its hooks."""
        super().__setstate__(state)
        self._remove_feature_hooks()

    @property
    def model(self) -> nn.Sequential:
        """The student's layers."""
        return self.student_model.model  # type: ignore[no-any-return]

    @property
    def backbone(self) -> DistilledBackbone:
        """The student's backbone."""
        return self.student_model.backbone  # type: ignore[no-any-return]

    def loss(self, batch: dict[str, Any], preds: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Extend ``loss``: hooks only now, and what they have caught goes with the batch."""
        if not self.training:
            return super().loss(batch, preds)  # type: ignore[no-any-return]
        self._register_feature_hooks()
        try:
            return super().loss(batch, preds)  # type: ignore[no-any-return]
        finally:
            self._remove_feature_hooks()
            self._teacher_feats.clear()
            self._student_feats.clear()

    def state_dict(self, *args: Any, **keywords: Any) -> dict[str, Any]:
        """Replace ``state_dict``: the student's tensors by their names in it, then ``projector.…``."""
        projectors = self.projector.state_dict(*args, **keywords)
        return {
            **self.student_model.state_dict(*args, **keywords),
            **{f"{_PROJECTOR}{name}": tensor for name, tensor in projectors.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Replace ``load_state_dict``: of what :meth:`state_dict` gives."""
        ours = {name.removeprefix(_PROJECTOR): t for name, t in state_dict.items() if name.startswith(_PROJECTOR)}
        students = {name: tensor for name, tensor in state_dict.items() if not name.startswith(_PROJECTOR)}
        self.projector.load_state_dict(ours, strict, assign)
        return self.student_model.load_state_dict(students, strict, assign)


def student_of(model: Any) -> Any:
    """The detector itself, of one with a teacher or without."""
    return model.student_model if isinstance(model, TaughtDetector) else model


def _words(strides: list[float]) -> str:
    return ", ".join(f"{stride:g}" for stride in strides)
