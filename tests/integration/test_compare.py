"""Runs that were trained here, compared."""

from __future__ import annotations

from kdyolo import compare


def test_a_run_that_training_left(train, tmp_path):
    for seed in (0, 1):
        for arm, freeze in (("thawed", 0), ("frozen", 1)):
            train(work_dir=tmp_path / arm / f"seed{seed}", seed=seed, freeze_epochs=freeze)
    comparison = compare(tmp_path / "thawed", tmp_path / "frozen", baseline="thawed")
    assert comparison.unlike == ()
    assert comparison.differing == {"freeze_epochs": {"thawed": 0, "frozen": 1}}
    assert "official AP" in comparison.metrics
    assert [p.phase for p in comparison.phases] == ["all train", "backbone frozen", "all train"]
    assert all(p.memory_gb > 0 and p.seconds_per_epoch > 0 for p in comparison.phases)
