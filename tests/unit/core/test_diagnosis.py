"""Causes and next steps that hold for any program."""

from __future__ import annotations

import re
import signal

import pytest

from dmr_core.domain.diagnosis import Rule, diagnose, explain_end, out_of_memory
from dmr_core.errors import (
    EngineCrashedError,
    EngineExitedError,
    EngineFlagError,
    EngineKilledError,
    EngineOutOfMemoryError,
    EngineUnusableError,
)

RULES = (
    Rule(re.compile(r"unknown flag (?P<flag>\S+)"), EngineFlagError, "refused {flag}", "Remove {flag}."),
    Rule(re.compile(r"unknown"), EngineExitedError, "does not know", "Tell it."),
)


def failure(returncode: int | None, tail: str = "") -> EngineExitedError:
    return EngineExitedError("engine", returncode, tail)


def test_the_first_rule_that_matches_explains() -> None:
    found = diagnose(failure(1, "one\nunknown flag --x\n"), RULES)

    assert type(found) is EngineFlagError
    assert (found.code, found.cause, found.remedy) == ("engine_bad_flag", "refused --x", "Remove --x.")
    assert found.message == "refused --x. Remove --x.\n\nVerbose output:\none\nunknown flag --x\n"
    assert (found.backend, found.returncode, found.summary) == ("engine", 1, "refused --x")


def test_braces_in_output_are_only_text() -> None:
    assert diagnose(failure(1, "unknown flag {0}{flag}"), RULES).cause == "refused {0}{flag}"


def test_what_no_rule_knows_stays_as_it_is() -> None:
    unexplained = failure(1, "something")
    assert diagnose(unexplained, RULES) is unexplained
    assert explain_end(unexplained) is unexplained
    assert unexplained.message == "engine exited with status 1\n\nVerbose output:\nsomething"


def test_an_old_trouble_in_the_output_is_not_the_cause() -> None:
    old = failure(1, "unknown flag --x\n" + "fine\n" * 100)
    assert diagnose(old, RULES) is old


def test_what_a_killed_process_printed_is_not_why_it_ended() -> None:
    killed = failure(-signal.SIGKILL, "unknown flag --x")
    assert diagnose(killed, RULES) is killed


def test_an_abort_is_explained_by_its_output_first() -> None:
    assert diagnose(failure(-signal.SIGABRT, "unknown flag --x"), RULES).code == "engine_bad_flag"


def test_what_is_explained_already_is_not_explained_again() -> None:
    known = out_of_memory("engine", -9, "unknown flag --x")
    assert type(known) is EngineOutOfMemoryError
    assert diagnose(known, RULES) is known
    assert explain_end(known) is known
    named = EngineExitedError("engine", -9, cause="a cause", remedy="A step.")
    assert explain_end(named) is named


@pytest.mark.parametrize(
    ("returncode", "kind", "says"),
    [
        (-signal.SIGKILL, EngineKilledError, "was killed by signal 9 (SIGKILL), probably by the kernel because memory"),
        (128 + signal.SIGKILL, EngineKilledError, "signal 9"),
        (-signal.SIGTERM, EngineKilledError, "signal 15 (SIGTERM) by another program"),
        (-signal.SIGILL, EngineUnusableError, "signal 4 (SIGILL): its program is built for another processor"),
        (-signal.SIGSEGV, EngineCrashedError, "signal 11 (SIGSEGV): it accessed memory"),
        (128 + signal.SIGSEGV, EngineCrashedError, "signal 11"),
        (-signal.SIGABRT, EngineCrashedError, "signal 6 (SIGABRT): it stopped itself"),
        (-signal.SIGBUS, EngineCrashedError, "the model's file shrank"),
        (-signal.SIGUSR1, EngineCrashedError, "(SIGUSR1): it crashed"),
        (-signal.SIGRTMIN - 1, EngineCrashedError, "(real-time): it crashed"),
    ],
)
def test_a_signal_is_told_with_what_it_means(returncode: int, kind: type[EngineExitedError], says: str) -> None:
    found = explain_end(failure(returncode, "the tail"))

    assert type(found) is kind
    assert says in found.message
    assert found.remedy
    assert found.message.endswith("\n\nVerbose output:\nthe tail")


@pytest.mark.parametrize("returncode", [None, 0, 1, 127, 255])
def test_an_ordinary_end_is_no_signal(returncode: int | None) -> None:
    assert type(explain_end(failure(returncode))) is EngineExitedError


@pytest.mark.parametrize(
    ("printed", "says"),
    [
        (
            (
                "llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file: "
                "No such file or directory"
            ),
            "the shared library libcudart.so.12 is missing",
        ),
        ("dyld[1]: Library not loaded: @rpath/libggml.dylib", "the shared library @rpath/libggml.dylib is missing"),
        ("./s: /lib/libc.so.6: version `GLIBC_2.38' not found (required by ./s)", "one with GLIBC_2.38"),
        ("sh: ./s: cannot execute binary file: Exec format error", "another kind of processor"),
    ],
)
def test_a_program_the_loader_refuses_is_unusable(printed: str, says: str) -> None:
    found = explain_end(failure(127, printed))
    assert type(found) is EngineUnusableError
    assert says in found.cause
