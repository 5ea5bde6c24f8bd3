"""Facts about each run."""

from __future__ import annotations

from kdyolo import compare


def test_provenance(study):
    facts = compare(study).provenance
    assert len(facts) == 9
    assert facts[0]["run"] == "random/seed0"
    assert facts[0]["state"] == "finished: 6 of 6 epochs"
    assert facts[0]["training time (s)"] == 60
    assert facts[0]["versions"] == "kdyolo 0.1.0, ultralytics 8.4.190"
