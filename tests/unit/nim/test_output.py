"""What a container prints: whole lines, whatever the pieces, and no secrets."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_backends_nim.output import ContainerOutput, hide
from dmr_core.domain.secret import Secret

LOGGER = logging.getLogger("dmr.engine.nim")


def frame(text: bytes, stream: int = 1) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


def lines_of(data: bytes, *cuts: int, secrets: tuple[Secret, ...] = ()) -> list[str]:
    output, at = ContainerOutput(LOGGER, secrets), 0
    for cut in (*sorted(cuts), len(data)):
        output.feed(data[at:cut])
        at = max(at, cut)
    output.end()
    return output.tail().split("\n") if output.tail() else []


@given(st.lists(st.integers(0, 80), max_size=6))
def test_frames_may_be_cut_anywhere(cuts: list[int]) -> None:
    data = frame(b"one\ntw") + frame(b"o\n", 2) + frame(b"") + frame(b"three") + frame(b"\nfour")

    assert lines_of(data, *cuts) == ["one", "two", "three", "four"]


def test_output_of_a_terminal_has_no_frames() -> None:
    assert lines_of(b"plain one\nplain two\r\n", 4) == ["plain one", "plain two"]
    assert lines_of(b"ab") == ["ab"]


@given(st.integers(0, 40))
def test_a_secret_is_hidden_wherever_the_pieces_end(cut: int) -> None:
    shown = lines_of(frame(b"using s3cr3t-of-mine now\n"), cut, secrets=(Secret("s3cr3t-of-mine"),))

    assert shown == ["using *** now"]


def test_what_looks_like_a_key_is_hidden_though_nobody_knows_it() -> None:
    assert "nvapi-abcdefghijklmnopqrstuvwxyz" not in hide("key nvapi-abcdefghijklmnopqrstuvwxyz!", ())


def test_a_line_without_end_is_cut_and_only_the_last_lines_are_kept() -> None:
    output = ContainerOutput(LOGGER, ())
    for number in range(1000):
        output.feed(frame(b"line %d\n" % number))
    output.feed(frame(b"x" * 1_000_000))
    output.end()

    kept = output.tail().split("\n")
    assert len(kept) == 200
    assert max(map(len, kept)) < 9000


def test_controls_and_progress_bars_do_not_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dmr.engine.nim"):
        shown = lines_of(frame(b" 10%\r 50%\r100%\n\x1b[31mred\x1b[0m\x07\n"))

    assert shown == ["100%", "red"]
    assert caplog.messages == shown
