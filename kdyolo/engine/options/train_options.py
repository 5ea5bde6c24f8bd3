"""Declaration of every option of a training: name, default, flag, help, and what it counts for.

The command's options, ``KDYOLO``'s keywords, a study's keys, the comparison's list of settings and the reference
follow from here, so an option is added in this module and, if it needs a check, in ``validation``. Neither torch nor
Ultralytics is imported, because the command's help is made from this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from kdyolo.models.freeze_schedule import FREEZE_BN, FreezeSchedule
from kdyolo.runs.lifecycle.options import Group, Option, declared, how_read, option

DEFAULT_RECIPE = "coco"
LETTERBOX, STRETCH = "letterbox", "stretch"

# Groups as the help and the reference list them.
HELP_ORDER: tuple[Group, ...] = ("start", "freeze", "recipe", "run", "reading")


@dataclass(frozen=True)
class TrainOptions:
    """Options that Ultralytics does not know, ``DECLARED`` below; everything else goes through to it unchanged.

    Examples:
        >>> from kdyolo import TrainOptions
        >>> options = TrainOptions(backbone="ckpt.pth", freeze_epochs=50)
        >>> options.schedule(epochs=100).is_frozen(49)
        True
    """

    backbone: str | None = field(
        default=None,
        metadata=option(
            help="Distillation checkpoint (.pt, .pth, .safetensors) to inject.",
            group="start",
            kind="path",
            value="FILE",
            meaning="distillation checkpoint to inject: `.pt`, `.pth`, `.safetensors`",
            default_text="none: the model starts random",
            input_file=True,
            in_study=False,
        ),
    )
    weights: str | None = field(
        default=None,
        metadata=option(
            help="Ultralytics .pt the detector starts from, e.g. yolov8s.pt.",
            group="start",
            kind="path",
            value="FILE",
            meaning="Ultralytics `.pt` the whole detector starts from; the backbone is laid over it",
            default_text="none",
            input_file=True,
        ),
    )
    random_init: bool = field(
        default=False,
        metadata=option(
            help="Say explicitly that the run starts random: a baseline.",
            group="start",
            kind="flag",
            meaning="says explicitly that the run starts random",
            default_text="off",
            in_study=False,
        ),
    )
    allow_partial: bool = field(
        default=False,
        metadata=option(
            help="Accept a checkpoint that does not fill the backbone.",
            group="reading",
            kind="flag",
            meaning="accept a checkpoint that does not fill the backbone, with a report",
            default_text="off",
            in_study=False,
        ),
    )
    bn_eps: float | None = field(default=None, metadata=how_read("bn_eps"))
    input_norm: str | None = field(default=None, metadata=how_read("input_norm"))
    key_map: str | None = field(default=None, metadata=how_read("key_map"))
    trust: bool = field(
        default=False,
        metadata=option(
            help="Unpickle checkpoints completely: RUNS ANY CODE that they bring.",
            group="reading",
            kind="flag",
            meaning="unpickle checkpoints completely, which runs any code that they bring",
            default_text="off",
            reads=True,
            in_study=False,
            in_arm=False,
        ),
    )
    freeze_epochs: int | Literal["all"] = field(
        default=0,
        metadata=option(
            help="Freeze the backbone in epochs 1…N and train it from N+1 on; 0 (default) never, 'all' to the end.",
            group="freeze",
            flags=("--freeze", "--freeze-epochs"),
            metavar="N|all",
            value="N",
            meaning="backbone frozen in epochs 1…N, trains from N+1; `all`: to the end",
            default_text="0",
        ),
    )
    unfreeze_stages: str | None = field(
        default=None,
        metadata=option(
            help='Thaw part by part, deepest first: "10:p5,20:p4,30:all".',
            group="freeze",
            metavar="PLAN",
            value="PLAN",
            meaning='thaw part by part, deepest first: `"10:p5,20:p4,30:all"` freezes p5 for 10 epochs, p4 for 20, '
            "the rest for 30",
            default_text="none",
        ),
    )
    backbone_lr: float = field(
        default=1.0,
        metadata=option(
            help="Learning rate of the backbone as a factor of the head's (default 1).",
            group="freeze",
            kind="number",
            value="X",
            meaning="learning rate of the backbone as a factor of the head's, for weights, norms and biases",
            default_text="1",
        ),
    )
    thaw_warmup: float = field(
        default=1.0,
        metadata=option(
            help="Epochs in which a thawed part reaches its rate (default 1).",
            group="freeze",
            kind="number",
            metavar="E",
            value="E",
            meaning="epochs over which a part that has just thawed rises from 0 to its rate",
            default_text="1",
        ),
    )
    freeze_bn: str = field(
        default=FREEZE_BN[0],
        metadata=option(
            help="Until when BatchNorm stands still.",
            group="freeze",
            choices=FREEZE_BN,
            value="WHEN",
            meaning="BatchNorm statistics stand still `with-backbone`: as long as their layers, or `always`",
            default_text="`with-backbone`",
        ),
    )
    resize: str = field(
        default=LETTERBOX,
        metadata=option(
            help="Keep the aspect ratio (default) or not.",
            choices=(LETTERBOX, STRETCH),
            value="HOW",
            meaning="`letterbox` keeps the aspect ratio; `stretch` does not, as `keep_ratio=False` elsewhere",
            default_text="`letterbox`",
        ),
    )
    recipe: str = field(
        default=DEFAULT_RECIPE,
        metadata=option(
            help="Training recipe: coco (default), coco-mosaic, or a YAML file.",
            group="recipe",
            metavar="NAME|FILE",
            value="NAME",
            meaning="`coco`, `coco-mosaic`, or a YAML file of settings",
            default_text="`coco`",
            input_file=True,
            in_stock=False,
            in_study=False,
        ),
    )
    coco_eval_period: int = field(
        default=0,
        metadata=option(
            help="Official COCO metrics in results.csv every N epochs. Default: 0, at the end only.",
            kind="count",
            metavar="N",
            value="N",
            meaning="official COCO metrics in `results.csv` every N epochs (0: at the end only)",
            default_text="0",
            in_arm=False,
        ),
    )
    run_download: bool = field(
        default=False,
        metadata=option(
            help="Show, then run what the data set YAML has under 'download', if images are missing.",
            kind="flag",
            meaning="show, then run what the data set YAML has under `download`, if images are missing",
            default_text="off",
            in_study=False,
            in_arm=False,
        ),
    )
    work_dir: str | None = field(
        default=None,
        metadata=option(
            help="The run folder itself. Default: runs/detect/train, train-2, …",
            kind="path",
            value="DIR",
            meaning="the run folder itself",
            default_text="`runs/detect/train`, `train-2`, …",
            in_stock=False,
            in_study=False,
            in_arm=False,
        ),
    )

    def to_dict(self) -> dict[str, Any]:
        """Every option with its value, as plain data."""
        return asdict(self)

    def schedule(self, epochs: int) -> FreezeSchedule:
        """The freeze schedule of a run of so many epochs.

        Raises:
            ConfigError: Every mistake in the schedule's options.
        """
        return FreezeSchedule(epochs=epochs, **{name: getattr(self, name) for name in names_of(in_group("freeze"))})


# Ultralytics' own options that have a flag of their own; any other is given as KEY=VALUE.
STOCK_FLAGS: Mapping[str, Option] = {
    "data": Option(
        help="Data set YAML, e.g. the one that 'kdyolo convert' printed.",
        group="start",
        kind="path",
        value="FILE",
        meaning="data set YAML",
        default_text="required",
        before="backbone",
    ),
    "model": Option(
        help="Model YAML, e.g. kdyolov8s.yaml. Default: the scale that the backbone fits.",
        group="start",
        value="NAME",
        meaning="model YAML",
        default_text="the scale that the backbone fits, else `kdyolov8s.yaml`",
        python="`KDYOLO(model)`",
        before="weights",
        input_file=True,
    ),
    "epochs": Option(help="Number of epochs.", kind="integer", before="resize"),
    "batch": Option(help="Images per batch.", before="resize"),
    "imgsz": Option(help="Image size in pixels: side of the square that is seen.", kind="integer", before="resize"),
    "device": Option(help="cpu, 0, mps, …", before="coco_eval_period"),
    "workers": Option(help="Data loader workers.", kind="integer", before="coco_eval_period"),
    "seed": Option(help="Random seed.", kind="integer", before="coco_eval_period"),
    "save_period": Option(help="Keep a checkpoint every N epochs.", kind="integer", before="coco_eval_period"),
    "exist_ok": Option(
        help="Allow a work dir that is not empty.",
        kind="flag",
        meaning="allow a work dir that is not empty",
        default_text="off",
        before="allow_partial",
    ),
}
# What the command does with a run, beside starting one.
COMMAND_FLAGS: Mapping[str, Option] = {
    "config": Option(
        help="YAML file of options, or the kdyolo.yaml of a run; options beside it win.",
        kind="path",
        metavar="FILE",
        value="FILE",
        meaning="YAML file of options by their Python names, or a run's `kdyolo.yaml`; options beside it go before",
        default_text="none",
        python="`**options`",
    ),
    "resume": Option(
        help="Continue an interrupted run: its folder or last.pt.",
        kind="path",
        metavar="RUN",
        value="RUN",
        meaning="go on with an interrupted run",
        python="`KDYOLO(last).train(resume=True)`",
    ),
    "dry_run": Option(
        help="Check everything, measure one batch, print the plan; train nothing.",
        kind="flag",
        meaning="check everything, measure one batch in every phase, print the plan; train nothing",
        default_text="off",
        python="`kdyolo.preflight(…)`",
    ),
}


def names_of(where: Callable[[Option], bool], options: type = TrainOptions) -> tuple[str, ...]:
    """Names of kdyolo's options whose declaration is of some kind, in the order of the fields."""
    return tuple(name for name, found in declared(options).items() if where(found))


def in_group(*groups: Group) -> Callable[[Option], bool]:
    """A condition for :func:`names_of`: the option is in one of the groups."""
    return lambda found: found.group in groups


def command_options(options: type = TrainOptions) -> dict[str, Option]:
    """Name → declaration of every option of ``kdyolo train``, in the order of its help."""
    listed: dict[str, Option] = {}
    for group in HELP_ORDER:
        for name, found in declared(options).items():
            if found.group == group:
                listed |= {stock: theirs for stock, theirs in STOCK_FLAGS.items() if theirs.before == name}
                listed[name] = found
    return {**listed, **COMMAND_FLAGS}


DECLARED: Mapping[str, Option] = declared(TrainOptions)
OPTION_NAMES = tuple(DECLARED)
READING = names_of(lambda found: found.reads)  # how a backbone checkpoint is read
START = names_of(in_group("start", "reading"))  # what a detector starts from
