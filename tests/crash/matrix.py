"""Kills processes in the middle of what they do to a store, and looks at what is left.

After every kill: a new store opens, every listed model is whole, nobody else's model changed, the operation was done or was
not; a deep check finds nothing but garbage; the operation succeeds when it is done again, and fetches no more than what
was missing; and a collection leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Final

import attrs

from dmr_adapters.model_store.maintenance.filesystem import FilesystemStoreMaintenance
from dmr_core.domain.store_report import FindingKind
from tests.crash.failpoints import When
from tests.crash.registry import CountingRegistry, counting_registry, digest
from tests.crash.scenarios import FOREIGN, Scenario, scenarios
from tests.crash.verifier import State, bytes_here, verify
from tests.crash.victim import PARTS_AT_ONCE, Outcome, Victim, Victims, victims

__all__ = ["Failure", "Kill", "Matrix", "open_matrix"]

_MIB: Final = 1024 * 1024
# A manifest is written before the index and removed after it, so a model may be complete and not listed.
_HARMLESS: Final = frozenset({FindingKind.GARBAGE, FindingKind.FOREIGN, FindingKind.UNLISTED})


class Failure(AssertionError):  # noqa: N818 - it is one of a test
    """Something was lost, or is wrong."""


@attrs.frozen(kw_only=True)
class Kill:
    """One experiment. ``again`` kills what does the operation again too; ``beside`` is another victim that lives."""

    scenario: str
    at: int
    when: When
    again: int = 0
    beside: str = ""

    def __str__(self) -> str:
        again = f", again at {self.again}" if self.again else ""
        beside = f", beside {self.beside}" if self.beside else ""
        return f"{self.scenario}: {self.when} call {self.at}{again}{beside}"


@attrs.define(eq=False)
class Matrix:
    """Makes kills. ``worst`` is how many bytes too many a pull fetched after one, at most."""

    directory: Path
    registry: CountingRegistry
    victims: Victims
    scenarios: dict[str, Scenario]
    calls: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    worst: int = 0
    killed: int = 0
    _before: dict[str, State] = attrs.field(factory=dict)
    _after: dict[str, State] = attrs.field(factory=dict)

    def rehearse(self) -> None:
        """Do every operation once without a kill: what it changes, and how many failpoints it has."""
        for scenario in self.scenarios.values():
            with self._store(scenario) as root:
                self._before[scenario.name] = verify(root, foreign=FOREIGN)
                outcome = self._live(scenario, root)
                self.calls[scenario.name] = outcome.calls
                self._after[scenario.name] = verify(root, foreign=FOREIGN)

    def every(self, names: list[str] | None = None) -> Iterator[Kill]:
        """Every failpoint of every operation, and the middle of every write."""
        for name in names or list(self.scenarios):
            for at, call in enumerate(self.calls[name], start=1):
                yield Kill(scenario=name, at=at, when=When.BEFORE)
                if "write" in call:
                    yield Kill(scenario=name, at=at, when=When.MIDDLE)
            yield Kill(scenario=name, at=len(self.calls[name]), when=When.AFTER)

    def some(self, seed: int, count: int, names: list[str] | None = None) -> Iterator[Kill]:
        """Random kills: of one, of two in a row, and of one beside another."""
        random = Random(seed)
        pool = names or list(self.scenarios)
        for _ in range(count):
            name = random.choice(pool)
            last = len(self.calls[name])
            again = random.randint(1, last) if random.random() < 0.3 else 0
            beside = random.choice(_COMPANY.get(name, [""])) if random.random() < 0.3 else ""
            yield Kill(
                scenario=name, at=random.randint(1, last), when=random.choice(list(When)), again=again, beside=beside
            )

    def make(self, kill: Kill) -> None:
        """Do one experiment.

        Raises:
            Failure: it shows a defect.
        """
        scenario = self.scenarios[kill.scenario]
        with self._store(scenario) as root:
            first = self._victim(scenario, root, kill.at, kill.when)
            company = [self._victim(self.scenarios[kill.beside], root)] if kill.beside else []
            outcomes = self.victims.run(first, *company)
            self._accept(kill, outcomes)
            allowed = self._allowed(scenario, kill)
            self._look(kill, root, allowed)
            if kill.again:
                self._accept(kill, self.victims.run(self._victim(scenario, root, kill.again, kill.when)))
                self._look(kill, root, allowed)
            missing = self._missing(scenario, root)
            self.registry.forget()
            self._live(scenario, root, kill)
            self._count(kill, missing)
            self._end(kill, scenario, root)

    def _victim(self, scenario: Scenario, root: Path, at: int = 0, when: When = When.BEFORE) -> Victim:
        return Victim(root=root, operation=scenario.operation, argument=scenario.argument, kill_at=at, when=when)

    def _live(self, scenario: Scenario, root: Path, kill: Kill | None = None) -> Outcome:
        (outcome,) = self.victims.run(self._victim(scenario, root))
        if outcome.error or outcome.killed:
            raise Failure(f"{kill or scenario.name}: without a kill it failed: {outcome.error}")
        return outcome

    def _accept(self, kill: Kill, outcomes: list[Outcome]) -> None:
        self.killed += sum(outcome.killed for outcome in outcomes)
        for outcome in outcomes:
            if outcome.error:
                raise Failure(f"{kill}: a victim failed instead of dying: {outcome.error}")
        if any(outcome.killed for outcome in outcomes[1:]):
            raise Failure(f"{kill}: the wrong one died")

    def _allowed(self, scenario: Scenario, kill: Kill) -> Callable[[State], bool]:
        before, after = self._before[scenario.name].models, self._after[scenario.name].models
        untagged = {**before, **{model_id: () for model_id in after if model_id not in before}}
        if kill.beside or scenario.gradual:
            other = self._after[kill.beside].models if kill.beside else after
            kept = before.keys() & after.keys() & other.keys()
            return lambda state: kept <= state.models.keys()
        return lambda state: any(
            list(state.models.items()) == list(known.items()) for known in (before, untagged, after)
        )

    def _look(self, kill: Kill, root: Path, allowed: Callable[[State], bool]) -> None:
        state = verify(root, foreign=FOREIGN)
        # The store it begins with has a bundle that was never finished.
        problems = [text for text in state.problems if "half made" not in text or kill.scenario != "bundle-again"]
        if problems:
            raise Failure(f"{kill}: {problems}")
        if not allowed(state):
            raise Failure(f"{kill}: neither the old state nor the new one: {state.models}")
        if (root / "models.json").exists():
            self._check(kill, root)

    def _check(self, kill: Kill, root: Path) -> None:
        report = asyncio.run(FilesystemStoreMaintenance(root).check(deep=True))
        bad = [finding for finding in report.findings if finding.kind not in _HARMLESS]
        if kill.scenario == "bundle-again":
            bad = [finding for finding in bad if finding.kind is not FindingKind.BUNDLE]
        if bad:
            raise Failure(f"{kill}: a check finds {bad}")

    def _missing(self, scenario: Scenario, root: Path) -> int | None:
        if scenario.remote is None:
            return None
        return sum(
            len(content) - bytes_here(root, name.removeprefix("sha256:"), content)
            for name, content in {digest(layer): layer for layer in scenario.remote.layers}.items()
        )

    def _count(self, kill: Kill, missing: int | None) -> None:
        remote = self.scenarios[kill.scenario].remote
        if missing is None or remote is None:
            return
        sent = sum(self.registry.sent[name] for name in {digest(layer) for layer in remote.layers})
        self.worst = max(self.worst, sent - missing)
        if sent > missing + PARTS_AT_ONCE * _MIB:
            raise Failure(f"{kill}: {missing} bytes were missing, and {sent} were sent")

    def _end(self, kill: Kill, scenario: Scenario, root: Path) -> None:
        """The new state, and after a collection nothing else."""
        state, after = verify(root, foreign=FOREIGN), self._after[scenario.name]
        if state.problems:
            raise Failure(f"{kill}: at the end {state.problems}")
        if not kill.beside and state.models != after.models:
            raise Failure(f"{kill}: at the end there is {state.models} and not {after.models}")
        if kill.beside:
            there, gone = self._before[kill.beside].tags, self._after[kill.beside].tags
            theirs = {tag for tag in there.keys() | gone.keys() if there.get(tag) != gone.get(tag)}
            lost = {
                tag for tag, model_id in after.tags.items() if tag not in theirs and state.tags.get(tag) != model_id
            }
            if lost:
                raise Failure(f"{kill}: at the end tags are missing: {lost}")
        maintenance = FilesystemStoreMaintenance(root)
        asyncio.run(maintenance.collect(partials_older_than=0.0))
        if verify(root, foreign=FOREIGN).models != state.models:
            raise Failure(f"{kill}: a collection took a model")
        self._check(kill, root)
        # A model that is complete and not listed is left by one that died while it added or removed it; `--all` takes it.
        asyncio.run(maintenance.collect(partials_older_than=0.0, everything=True))
        end = verify(root, foreign=FOREIGN)
        if end.leftovers or end.problems or end.tags != state.tags:
            raise Failure(f"{kill}: after a collection: {end}")

    @contextmanager
    def _store(self, scenario: Scenario) -> Iterator[Path]:
        root = Path(tempfile.mkdtemp(dir=self.directory)) / "models"
        scenario.copy(root)
        try:
            yield root
        finally:
            shutil.rmtree(root.parent)


_COMPANY: Final = {
    "pull": ["pull", "prune", "tag", "package", "bundle"],
    "first-pull": ["first-pull", "open"],
    "package": ["package", "prune", "pull", "delete-by-id"],
    "import": ["package", "prune", "import", "pull"],
    "import-link": ["import", "prune", "tag"],
    "repackage": ["prune", "package", "bundle"],
    "tag": ["tag", "tag-moved", "bundle", "package"],
    "delete-by-id": ["package", "bundle", "prune", "pull"],
    "bundle": ["bundle", "tag", "prune", "package"],
    "prune": ["prune", "bundle", "tag", "package", "pull"],
    "open": ["open", "first-pull"],
}


@contextmanager
def open_matrix(directory: Path | None = None) -> Iterator[Matrix]:
    """Everything that is needed, rehearsed."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory, prefix="dmr-crash-")))
        registry = stack.enter_context(counting_registry())
        running = stack.enter_context(victims())
        known = {scenario.name: scenario for scenario in scenarios(root / "templates", registry)}
        (root / "stores").mkdir()
        matrix = Matrix(root / "stores", registry, running, known)
        matrix.rehearse()
        yield matrix
