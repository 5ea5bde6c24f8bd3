"""Label efficiency: each share compared on its own, what is shown accounted for in all of them, and said in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdyolo.experiments.compare import compare_runs
from kdyolo.experiments.comparison.findings.label_efficiency import LabelPoint, gain_verdict
from kdyolo.experiments.comparison.label_shares import arm_and_share, arm_at, bare_name
from kdyolo.experiments.comparison.significance import Interval
from tests.builders.run_folders import write_run

# Share → gain of the arm over the baseline; with a spread over seeds of 0.003 a gain of 0.1 is shown, one of 0 is not.
GAINS = {0.01: 0.1, 0.1: 0.05, 1.0: 0.0}
SPREAD = (0.0, 0.003, -0.002)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two arms, three seeds, three shares of the labels."""
    root, whole = tmp_path / "studies" / "few", tmp_path / "coco.yaml"
    whole.write_text(yaml.safe_dump({"path": str(tmp_path), "train": "train", "val": "val", "names": ["x"]}))
    for number, (share, gain) in enumerate(GAINS.items()):
        for seed, luck in enumerate(SPREAD):
            data = tmp_path / f"{share}-{seed}.yaml"
            subset = {"of": str(whole), "share": share, "seed": seed, "images": round(share * 5000), "of_images": 5000}
            content = {"train": f"{share}-{seed}", "val": "val", "names": ["x"], "kdyolo_subset": subset}
            data.write_text(yaml.safe_dump(content))
            for arm, more in (("random", 0.0), ("distilled", gain + luck)):
                top = round(0.1 * (number + 1) + 0.01 * seed + more, 5)
                folder = root / arm_at(arm, share) / f"seed{seed}"
                used = whole if share == 1 else data
                own = {"seconds": 9.0 + number, "lr0": 0.02} if arm == "distilled" else {"seconds": 5.0 + number}
                write_run(folder, [top / 2, top], seed=seed, data=used, **own)
    content = {"name": "few", "baseline": "random", "arms": {"random": {}, "distilled": {}}, "labels": list(GAINS)}
    (root / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return root


def test_each_share_is_compared_with_its_own_and_the_largest_is_the_comparison(study: Path) -> None:
    comparison = compare_runs(study)
    assert comparison.unlike == ()
    assert comparison.baseline == "random"
    assert [(arm.name, round(arm.values["mAP50-95"].estimate, 2)) for arm in comparison.arms] == [
        ("random", 0.31), ("distilled", 0.31),
    ]  # fmt: skip
    labels = comparison.labels
    assert labels is not None
    assert [(p.arm, p.share, p.images) for p in labels.points] == [
        (arm, share, images)
        for arm in ("random", "distilled")
        for share, images in ((0.01, 50), (0.1, 500), (1.0, 5000))
    ]
    few, some, all_of_them = labels.points[3:]
    assert few.difference
    assert some.difference
    assert all_of_them.difference
    assert few.difference.interval.estimate == pytest.approx(0.1, abs=0.001)
    assert few.difference.paired
    assert [p.difference.significant for p in (few, some, all_of_them) if p.difference] == [True, True, False]
    assert few.difference.p_adjusted == pytest.approx(3 * few.difference.p_value)  # of three, the smallest
    assert labels.gains == {
        "distilled": "a significant gain with up to 10% of the images (500), none from 100% of the images (5,000) on"
    }


def test_tables_and_report_show_it(study: Path, tmp_path: Path) -> None:
    comparison = compare_runs(study)
    assert "mAP50-95 over the number of labels" in comparison.table()
    assert "a significant gain with up to 10% of the images (500)" in comparison.to_markdown()
    page = comparison.write_report(tmp_path / "report").read_text(encoding="utf-8")
    assert '<section id="labels">' in page
    assert "chart-labels" in page
    assert ">10% (500)<" in page
    assert "shown" not in page[page.index('<section id="labels">') : page.index('<section id="curves">')]
    assert comparison.to_dict()["labels"]["points"][0]["images"] == 50


def test_an_arm_that_saw_another_share_is_not_like_for_like(study: Path) -> None:
    loose = [study / "random@1%" / "seed0", study / "distilled@1%" / "seed1"]
    assert compare_runs(*loose).unlike == ()  # the seed draws the images
    args = study / "distilled@1%" / "seed1" / "args.yaml"
    content = yaml.safe_load(args.read_text())
    args.write_text(yaml.safe_dump({**content, "data": content["data"].replace("0.01", "0.1")}))
    assert "the data set differs" in compare_runs(*loose, anyway=True).unlike[0]


def point(share: float, estimate: float, significant: bool) -> LabelPoint:
    difference: Any = type("D", (), {"interval": Interval(estimate, estimate, estimate), "significant": significant})
    return LabelPoint("a", share, None, Interval(0.3), difference)


@pytest.mark.parametrize(
    ("shown", "says"),
    [
        ("...", "no significant gain with any number of labels"),
        ("+++", "a significant gain with every number of labels, from 1% of the images on"),
        ("++.", "a significant gain with up to 10% of the images, none from 100% of the images on"),
        (".++", "a significant gain from 10% of the images on, none with fewer"),
        ("+.+", "a significant gain with 1% of the images, 100% of the images"),
        (".-+", "a significant gain from 100% of the images on, none with fewer; a loss with 10% of the images"),
    ],
)
def test_where_a_gain_is_shown_in_words(shown: str, says: str) -> None:
    estimates = {"+": 0.1, "-": -0.1, ".": 0.2}
    points = [point(share, estimates[sign], sign != ".") for share, sign in zip(GAINS, shown, strict=True)]
    assert gain_verdict(points) == says


def test_names() -> None:
    assert arm_at("frozen", 0.001) == "frozen@0.1%"
    assert arm_and_share("frozen@12.5%") == ("frozen", 0.125)
    assert (arm_and_share("frozen"), bare_name("a@1%"), bare_name("a")) == (None, "a", "a")
