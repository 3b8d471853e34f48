"""The rules a soak has to meet."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest

from tests.soak.ledger import Ledger, Outcome
from tests.soak.sampling import Idle, Sample, slope
from tests.soak.verdict import Run, record, rules, slopes, table

IDLE = Idle(rss=1000, pss=900, fds=20, threads=4, tasks=6, engines=0, kinds=Counter(socket=20))


def run(rss: float = 0.0) -> Run:
    """A soak of 200 s without a flaw but that the memory grows by ``rss`` KiB a second."""
    ledger = Ledger()
    ledger.note(Outcome(action="chat", backend="b", model="m", began=0.0, ended=1.0))
    return Run(
        seed=1,
        duration=200.0,
        ledger=ledger,
        deeds=Counter(unloads=3),
        samples=[Sample(float(at), round(1000 + rss * at / 2), 900, 20, 4, 2) for at in range(200)],
        before=IDLE,
        after=IDLE,
        counters={"loads ready": 3.0},
        missing=(),
        exit_status=0,
        exit_seconds=1.0,
        exit_limit=12.0,
        leftovers=(),
    )


def broken(made: Run) -> list[str]:
    return [rule.name for rule in rules(made) if not rule.met]


def test_a_soak_without_a_flaw_meets_every_rule() -> None:
    assert broken(run()) == []


def test_memory_may_grow_a_little_and_no_more() -> None:
    assert broken(run(0.5)) == []
    assert broken(run(1.0)) == ["RSS under load ≤ 1.05 times that after the first fifth"]


def test_a_short_soak_does_not_judge_memory() -> None:
    made = run(5.0)
    assert broken(made)
    made.duration = 100.0
    assert broken(made) == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"after": attrs.evolve(IDLE, rss=1060)}, "RSS when idle again ≤ 1.05 times that after the first fifth"),
        ({"after": attrs.evolve(IDLE, fds=21)}, "descriptors back at their start"),
        ({"after": attrs.evolve(IDLE, tasks=7)}, "tasks back at their start"),
        ({"before": attrs.evolve(IDLE, tasks=None)}, "tasks back at their start"),
        ({"after": attrs.evolve(IDLE, engines=1)}, "no engine left when idle"),
        ({"exit_status": None}, "ends with 0 within 12 s of SIGTERM"),
        ({"exit_status": 1}, "ends with 0 within 12 s of SIGTERM"),
        ({"exit_seconds": 13.0}, "ends with 0 within 12 s of SIGTERM"),
        ({"leftovers": ["process 7 lives"]}, "nothing left behind"),
        ({"ledger": Ledger()}, "no wrong answer"),
    ],
)
def test_every_rule_can_be_broken(changes: dict[str, object], rule: str) -> None:
    made = run()
    for name, value in changes.items():
        setattr(made, name, value)

    assert broken(made) == [rule]
    assert f"FAILED {rule}" in table(made)


def test_slopes_are_per_hour_and_leave_out_the_first_fifth() -> None:
    made = run(1.0)
    made.samples = [attrs.evolve(sample, rss=0) if sample.at < 40 else sample for sample in made.samples]

    assert slopes(made)["rss"] == pytest.approx(1800.0, abs=1.0)
    assert slope([]) == slope([(1.0, 1.0)]) == 0.0


def test_the_record_holds_every_sample_and_every_rule() -> None:
    made = record(run())

    assert len(made["samples"]) == 200
    assert made["requests"] == {"chat: ok": 1}
    assert all(rule["met"] for rule in made["rules"])
