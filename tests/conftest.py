"""What every test may rely on, and what none may leave behind."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

_REQUIRED = frozenset(name for name in os.environ.get("DMR_REQUIRE", "").split(",") if name)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep the directories of parallel runs short: the path of a Unix socket has 107 bytes at most."""
    worker: str | None = getattr(config, "workerinput", {}).get("workerid")
    if worker is not None:
        config.option.basetemp = str(Path(config.option.basetemp).parent / worker.removeprefix("gw"))


def require(name: str, *, available: bool, reason: str) -> None:
    """Skip with a reason where equipment is missing; fail where ``DMR_REQUIRE`` says that it was installed."""
    if available:
        return
    if name in _REQUIRED:
        pytest.fail(f"{name} is required here (DMR_REQUIRE), but {reason}")
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """No test may leave a child process or a thread of its own behind."""
    children, threads = _children(), set(threading.enumerate())
    yield
    left = _children() - children
    assert not left, f"processes left behind: {left}"
    running = {
        thread
        for thread in set(threading.enumerate()) - threads
        # The loop's own pool ends with the loop, which a fixture of pytest-asyncio closes after us.
        if thread.is_alive() and not thread.daemon and not thread.name.startswith(("asyncio_", "ThreadPoolExecutor"))
    }
    assert not running, f"threads left behind: {running}"


@pytest.fixture(autouse=True)
async def _no_task_left_behind(request: pytest.FixtureRequest) -> object:
    """No async test may leave a task running."""
    if not asyncio.iscoroutinefunction(getattr(request.node, "obj", None)):
        yield
        return
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task() and not task.done()}
    assert not left, f"tasks left behind: {left}"


def _children() -> set[tuple[int, str]]:
    """Live children of this process, with their command; zombies count, they are ours to reap."""
    found = set()
    own = os.getpid()
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return set()
    for name in names:
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        command = text[text.index("(") + 1 : text.rindex(")")]
        if int(text[text.rindex(")") + 2 :].split()[1]) == own:
            found.add((int(name), command))
    return found
