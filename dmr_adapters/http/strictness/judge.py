"""Judging values by schemas that come from clients, in a process of its own.

A schema of a few bytes can keep a validator busy for ever: a regular expression that backtracks, or references that
double. So the work is done where it can be ended, and where neither memory nor the interpreter's lock is ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from typing import Any, Final

import orjson

from dmr_adapters.http.strictness.findings import Case
from dmr_core.errors import AnswerViolationError, InvalidRequestError

__all__ = ["judge"]

_SECONDS: Final = 5.0
_AT_ONCE: Final = 4
_MAX_REPORT: Final = 64 * 1024
_places: Final = asyncio.Semaphore(_AT_ONCE)


async def judge(cases: Sequence[Case]) -> None:
    """Return when every value follows its schema. Takes a fifth of a second: a process is started for it.

    Raises:
        AnswerViolationError: one does not; says where, and what of the schema.
        InvalidRequestError: a schema is none, refers to another document, or takes too long to follow.
    """
    if not cases:
        return
    asked = orjson.dumps([[case.where, case.schema, case.value] for case in cases])
    async with _places:
        report = await _report(asked)
    if report is None:
        raise InvalidRequestError(f"the answer could not be checked within {_SECONDS:g} s: use a simpler schema")
    if report:
        kind, where, message = report
        if kind == "schema":
            raise InvalidRequestError(f"the schema for {where} cannot be used: {message}")
        raise AnswerViolationError(f"the engine's answer breaks the schema at {where}: {message}", where=where)


async def _report(asked: bytes) -> list[Any] | None:
    """What the process says; ``None`` where it was cut short."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", "dmr_adapters.http.strictness.validator"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=_MAX_REPORT,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            output, _ = await process.communicate(asked)
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
    if process.returncode:
        return None
    found = orjson.loads(output)
    return found if isinstance(found, list) else None
