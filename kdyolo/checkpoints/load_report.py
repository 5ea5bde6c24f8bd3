"""How a checkpoint's tensors fit a backbone: the counts that make a partial load visible."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdyolo.checkpoints.input_norm import InputNorm, NormOrigin
from kdyolo.utils.tables import ShownAsTable
from kdyolo.utils.text import number_and_noun, printable, shortened

WHY_DOUBTFUL = (
    "only the backbone of this file was trained, as LightlyTrain does it, on ImageNet-normalised images.\n"
    "              If it is LightlyTrain's, say --input-norm imagenet; if not, --input-norm 0-1"
)
_LONGEST = 1000  # characters of what comes from the file, a line each


@dataclass(frozen=True, repr=False)
class LoadReport(ShownAsTable):
    """How a file's tensors fit a backbone: the counts that make a partial load visible.

    Attributes:
        model: Arch of the backbone, e.g. ``"yolov8s"``.
        matched: Number of the backbone's tensors that the file has in the same shape.
        total: Number of the backbone's tensors.
        values: Number of values in the matched tensors.
        missing: Names of the backbone's tensors that the file lacks.
        unexpected: Keys of the file that stand among a backbone's tensors but are none.
        wrong_shape: Keys of the file whose tensors have another shape, with the expected and the found one.
        dropped: Part of the file → number of its tensors that are not the backbone's.
        untrained: Names of tensors known never to have trained; they are not taken from the file.
        left_out: What of the backbone did not come from the file: whole layers (``"9"``), else names of tensors.
        fits: Arch that the file fits best, e.g. ``"yolov8s"``.
        path: The file.
        sha256: Hex digest of the whole file.
        source: Container and naming scheme of the file, in words.
        kind: Name of the file's naming scheme.
        epoch: Epoch recorded in the file, if any.
        teacher: Model that the backbone was distilled from, if the file says so.
        bn_eps: BatchNorm epsilon that the weights were trained with.
        norm: Normalisation of the images that the backbone was trained with, folded into its first layer.
        norm_origin: What the normalisation is known from.
        verified: Whether checksums cover every tensor.
        teacher_licence: Licence of the teacher's weights, if the file records it.
    """

    model: str
    matched: int
    total: int
    values: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]
    dropped: dict[str, int]
    untrained: tuple[str, ...]
    left_out: tuple[str, ...]
    fits: str
    path: str
    sha256: str
    source: str
    kind: str
    epoch: int | None
    teacher: str | None
    bn_eps: float
    norm: InputNorm
    norm_origin: NormOrigin
    verified: bool
    teacher_licence: str | None = None

    @property
    def input_norm(self) -> str:
        """Normalisation of the images, in words: ``"0-1"``, ``"imagenet mean and std, recorded in the file"``."""
        if self.norm_origin is NormOrigin.ASSUMED:
            return f"{self.norm} ASSUMED"
        if self.norm == InputNorm():
            return str(self.norm)
        known_from = {
            NormOrigin.GIVEN: "as given",
            NormOrigin.RECORDED: "recorded in the file",
            NormOrigin.SOURCE_DEFAULT: f"{self.kind}'s default",
        }
        return f"{self.norm} mean and std, {known_from[self.norm_origin]}"

    @property
    def complete(self) -> bool:
        """Whether every tensor of the backbone that its tool trains came from the file and nothing was left over."""
        whole = self.matched + len(self.untrained) == self.total
        return whole and not (self.missing or self.unexpected or self.wrong_shape)

    def summary(self) -> str:
        """One line: model, tensors, values, epoch and file."""
        epoch = f"epoch {self.epoch} of " if self.epoch is not None else ""
        return (
            f"backbone: {self.model} · {self.matched}/{self.total} tensors · {self.values:,} values · "
            f"from {epoch}{_shown(Path(self.path).name)}"
        )

    def table(self) -> str:
        """The summary and, below it, what else there is to know, a line each."""
        lines = [
            self.summary(),
            f"  source      {_shown(self.source)}, sha256 {self.sha256[:12]}…",
            f"  BatchNorm   eps {self.bn_eps:g} as the weights were trained with (--bn-eps overrides)",
        ]
        if not self.verified:
            lines.append(
                f"  checksums   none, so damage to the tensors cannot be noticed; put {Path(self.path).name}.sha256 "
                "beside the file"
            )
        if self.norm_origin is NormOrigin.ASSUMED:
            lines.append(f"  images      {self.input_norm}: {WHY_DOUBTFUL}")
        elif self.norm != InputNorm():
            lines.append(f"  images      {self.input_norm}: folded into the first convolution (--input-norm overrides)")
        if self.untrained:
            layers = ", ".join(f"layer {name}" if name.isdigit() else name for name in self.left_out)
            lines.append(
                f"  untrained   {len(self.untrained)}: {layers}; not taken, never frozen, trains from the start"
            )
        if self.dropped:
            parts = ", ".join(f"{part} ({count})" for part, count in self.dropped.items())
            count = number_and_noun(sum(self.dropped.values()), "tensor{ that is|s that are} not this backbone's")
            lines.append(f"  dropped     {count}: {_shown(parts)}")
        for title, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("wrong shape", self.wrong_shape),
        ):
            if names:
                lines.append(f"  {title:<11} {len(names)}: {_shown(_first(names))}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML or JSON; the normalisation in words, as ``input_norm``."""
        plain = {**asdict(self), "norm": self.input_norm}
        del plain["norm_origin"]
        return {
            "input_norm" if key == "norm" else key: list(value) if isinstance(value, tuple) else value
            for key, value in plain.items()
        }


def _shown(text: str) -> str:
    return shortened(printable(text), _LONGEST)


def _first(names: tuple[str, ...], count: int = 4) -> str:
    return ", ".join(names[:count]) + (f", … ({len(names) - count} more)" if len(names) > count else "")
