"""The picture of a distillation keeps up with it, but takes little of its time."""

from __future__ import annotations

from kdyolo.distillation.run.results_picture import SeldomWork


def test_work_takes_a_fiftieth_of_the_time_and_is_done_at_once_when_asked() -> None:
    now, done = [0.0], []

    def work() -> None:
        done.append(now[0])
        now[0] += 2.0

    seldom = SeldomWork(work, lambda: now[0])
    for _ in range(100):  # epochs of 5 s
        now[0] += 5.0
        seldom.offer()
    assert done[0] == 5.0
    assert len(done) * 2.0 <= 0.02 * now[0] + 2.0
    assert len(done) > 4
    seldom.offer(at_once=True)
    assert done[-1] == now[0] - 2.0
