"""How a checkpoint's tensors fit a backbone: the counts that make a partial load visible."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DOUBTFUL_NORM = "0-1 ASSUMED"
WHY_DOUBTFUL = (
    "only the backbone of this file was trained, as LightlyTrain does it, on ImageNet-normalised images.\n"
    "              If it is LightlyTrain's, say --input-norm imagenet; if not, --input-norm 0-1"
)


@dataclass(frozen=True)
class LoadReport:
    """How a file's tensors fit a backbone: the counts that make a partial load visible.

    ``missing``, ``unexpected``, ``wrong_shape`` (with expected and found shape) and ``untrained`` (known never to have
    trained, so left as they are) hold names; ``fits`` is the model that the file fits best, e.g. ``"yolov8s"``;
    ``left_out`` names what of the backbone did not come from the file: whole layers (``"9"``), else tensors.
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
    input_norm: str
    verified: bool

    @property
    def complete(self) -> bool:
        """Whether every tensor of the backbone that its source trains came from the file and nothing was left over."""
        whole = self.matched + len(self.untrained) == self.total
        return whole and not (self.missing or self.unexpected or self.wrong_shape)

    def summary(self) -> str:
        """One line: model, tensors, values, where from."""
        epoch = f"epoch {self.epoch} of " if self.epoch is not None else ""
        return (
            f"backbone: {self.model} · {self.matched}/{self.total} tensors · {self.values:,} values · "
            f"from {epoch}{Path(self.path).name}"
        )

    def table(self) -> str:
        """The summary and, below it, one line for each further fact."""
        lines = [
            self.summary(),
            f"  source      {self.source}, sha256 {self.sha256[:12]}…",
            f"  BatchNorm   eps {self.bn_eps:g} as the weights were trained with (--bn-eps overrides)",
        ]
        if self.input_norm == DOUBTFUL_NORM:
            lines.append(f"  images      {self.input_norm}: {WHY_DOUBTFUL}")
        elif not self.input_norm.startswith("0-1"):
            lines.append(f"  images      {self.input_norm}: folded into the first convolution (--input-norm overrides)")
        if self.untrained:
            layers = ", ".join(f"layer {name}" if name.isdigit() else name for name in self.left_out)
            lines.append(
                f"  untrained   {len(self.untrained)}: {layers}; not taken, never frozen, trains from the start"
            )
        if self.dropped:
            parts = ", ".join(f"{part} ({count})" for part, count in self.dropped.items())
            lines.append(f"  dropped     {sum(self.dropped.values())} tensors that are not this backbone's: {parts}")
        for title, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("wrong shape", self.wrong_shape),
        ):
            if names:
                lines.append(f"  {title:<11} {len(names)}: {_first(names)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML or JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _first(names: tuple[str, ...], count: int = 4) -> str:
    return ", ".join(names[:count]) + (f", … ({len(names) - count} more)" if len(names) > count else "")
