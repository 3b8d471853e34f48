"""The rules a soak has to meet, the table that is printed, and the record for a file."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

import attrs

from tests.soak.ledger import Ledger
from tests.soak.sampling import Idle, Sample, slope, window

__all__ = ["GROWTH", "SETTLED", "Rule", "Run", "record", "rules", "table"]

GROWTH: Final = 1.05
SETTLED: Final = 120.0
"""Seconds below which memory is not judged: what is bounded, as the log, is still filling up in the first fifth."""

_SHOWN: Final = 20
_FIRST_FIFTH: Final = (0.2, 0.3)
_LAST: Final = (0.9, 1.0)


@attrs.define(kw_only=True)
class Run:
    """Everything a soak saw. Durations in seconds, memory in KiB."""

    seed: int
    duration: float
    ledger: Ledger
    deeds: Counter[str]
    samples: Sequence[Sample]
    before: Idle
    after: Idle
    counters: dict[str, float]
    missing: Sequence[str]
    exit_status: int | None
    exit_seconds: float
    exit_limit: float
    leftovers: Sequence[str]


@attrs.frozen
class Rule:
    """One rule, what was measured, and whether it is met."""

    name: str
    measured: str
    met: bool


def rules(run: Run) -> list[Rule]:
    """Every rule."""
    first = _median(run.samples, run.duration, _FIRST_FIFTH)
    last = _median(run.samples, run.duration, _LAST)
    quiet, short = run.after.rss, run.duration < SETTLED
    requests = sum(run.ledger.outcomes.values())
    before, after = run.before, run.after
    return [
        Rule(
            "no wrong answer",
            f"{len(run.ledger.wrong)} wrong, {requests} requests",
            not run.ledger.wrong and requests > 0,
        ),
        Rule(
            f"RSS under load ≤ {GROWTH} times that after the first fifth",
            f"{first:.0f} → {last:.0f} KiB, {last / first if first else 0:.3f} times",
            0 < last <= GROWTH * first or short,
        ),
        Rule(
            f"RSS when idle again ≤ {GROWTH} times that after the first fifth",
            f"{first:.0f} → {quiet} KiB, {quiet / first if first else 0:.3f} times",
            0 < quiet <= GROWTH * first or short,
        ),
        Rule("descriptors back at their start", _changed(before, after), after.fds <= before.fds),
        Rule(
            "tasks back at their start",
            f"{before.tasks} → {after.tasks}",
            before.tasks is not None and after.tasks is not None and after.tasks <= before.tasks,
        ),
        Rule("no engine left when idle", f"{after.engines} processes", after.engines == 0),
        Rule(
            f"ends with 0 within {run.exit_limit:g} s of SIGTERM",
            f"{'killed' if run.exit_status is None else run.exit_status} after {run.exit_seconds:.1f} s",
            run.exit_status == 0 and run.exit_seconds <= run.exit_limit,
        ),
        Rule("nothing left behind", "; ".join(run.leftovers) or "nothing", not run.leftovers),
    ]


def slopes(run: Run) -> dict[str, float]:
    """Growth per hour of the daemon's figures after the first fifth."""
    later = window(run.samples, run.duration, _FIRST_FIFTH[0], 1.0)
    return {
        name: slope([(sample.at, float(getattr(sample, name))) for sample in later])
        for name in ("rss", "pss", "fds", "threads")
    }


def table(run: Run) -> str:
    """What is printed in the end."""
    lines = [f"seed {run.seed}, {run.duration:.0f} s", "", "requests"]
    by_action: dict[str, list[str]] = defaultdict(list)
    for (action, verdict), count in sorted(run.ledger.outcomes.items()):
        by_action[action].append(f"{count} {verdict}")
    for action, counts in by_action.items():
        lines.append(f"  {action:<16} {', '.join(counts)}; slowest {run.ledger.slowest[action]:.1f} s")
    lines += ["", "events"]
    events = {**run.deeds, **{name: round(value) for name, value in run.counters.items()}}
    lines += [f"  {name:<34} {count}" for name, count in sorted(events.items())]
    if run.missing:
        lines += ["", f"not part of this run, as the service has no such route: {', '.join(run.missing)}"]
    units = {"rss": "KiB", "pss": "KiB"}
    lines += ["", "slopes per hour, after the first fifth, by least squares"]
    lines += [f"  {name:<8} {value:+.1f} {units.get(name, '')}".rstrip() for name, value in slopes(run).items()]
    lines += ["", "rules"]
    lines += [f"  {'ok    ' if rule.met else 'FAILED'} {rule.name}: {rule.measured}" for rule in rules(run)]
    if run.ledger.wrong:
        lines += ["", "wrong", *(f"  {line}" for line in run.ledger.wrong[:_SHOWN])]
        lines += [f"  … and {len(run.ledger.wrong) - _SHOWN} more"] if len(run.ledger.wrong) > _SHOWN else []
    return "\n".join(lines)


def record(run: Run) -> dict[str, Any]:
    """The same and every sample, for a file."""
    return {
        "seed": run.seed,
        "duration_seconds": run.duration,
        "requests": {f"{action}: {verdict}": count for (action, verdict), count in sorted(run.ledger.outcomes.items())},
        "events": {**run.deeds, **run.counters},
        "missing_routes": list(run.missing),
        "slopes_per_hour": slopes(run),
        "rules": [attrs.asdict(rule) for rule in rules(run)],
        "wrong": run.ledger.wrong,
        "idle": {"before": attrs.asdict(run.before), "after": attrs.asdict(run.after)},
        "samples": [attrs.asdict(sample) for sample in run.samples],
    }


def _changed(before: Idle, after: Idle) -> str:
    more = after.kinds - before.kinds
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(more.items()))
    return f"{before.fds} → {after.fds}" + (f" (more: {told})" if told and after.fds > before.fds else "")


def _median(samples: Sequence[Sample], duration: float, shares: tuple[float, float]) -> float:
    chosen = window(samples, duration, *shares)
    return statistics.median(sample.rss for sample in chosen) if chosen else 0.0
