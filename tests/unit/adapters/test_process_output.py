"""What becomes of an engine's output: lines for the log, an end to show, no secrets in either."""

import logging
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_adapters.process.environment import child_environment
from dmr_adapters.process.output import LineLog
from dmr_adapters.process.redaction import Redactor, redact_secrets

LOGGER = logging.getLogger("dmr.engine.test")


def logged(caplog: pytest.LogCaptureFixture, *pieces: bytes) -> list[str]:
    caplog.set_level(logging.INFO, logger="dmr.engine.test")
    lines = LineLog(LOGGER)
    for piece in pieces:
        lines.feed(piece)
    lines.flush()
    return caplog.messages


def test_lines_are_put_together_from_pieces(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(caplog, b"on", b"e\ntwo\r\n\n  \nthr", b"ee") == ["one", "two", "three"]


def test_a_long_line_is_cut_once_and_the_next_is_whole(caplog: pytest.LogCaptureFixture) -> None:
    found = logged(caplog, *[b"x" * 5000] * 100, b"\nnext\n")
    assert [len(message) for message in found] == [8192 + len(" [cut]"), 4]


def test_of_a_progress_bar_the_last_state_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(caplog, b"10%\r50%\r100%\r\n") == ["100%"]


def test_control_characters_cannot_forge_lines_or_colours(caplog: pytest.LogCaptureFixture) -> None:
    raw = "\x1b[31mred\x1b[0m \x00\x07\x85\u2028\u202eend \x1b]0;title\x07.\n".encode()
    assert logged(caplog, raw) == ["red end ."]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_any_bytes_are_survived(pieces: list[bytes]) -> None:
    lines = LineLog(LOGGER)
    for piece in pieces:
        lines.feed(piece)
    lines.flush()
    assert isinstance(lines.tail(), str)


def test_the_tail_is_bounded_and_starts_with_a_whole_word() -> None:
    lines = LineLog(LOGGER)
    for number in range(50_000):
        lines.feed(b"line %d\n" % number)
    tail = lines.tail()
    assert 2**16 - 100 < len(tail) <= 2**17
    assert tail.startswith("line ")
    assert tail.endswith("line 49999\n")


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("using sk-proj-abcdefgh12345678", "using ***"),
        ("token hf_abcdefgh1234", "token ***"),
        ("nvapi-abcdefghijkl ghp_abcdefghijkl", "*** ***"),
        ("--api-key s3cret --port 1", "--api-key *** --port 1"),
        ("--api-key=s3cret --port 1", "--api-key=*** --port 1"),
        ("['--hf-token', 's3cret', '--port']", "['--hf-token', '***', '--port']"),
        ("HF_TOKEN=s3cret NGC_API_KEY=x", "HF_TOKEN=*** NGC_API_KEY=***"),
        ('{"api_key": "s3cret"}', '{"api_key": "***"}'),
        ("https://ada:s3cret@example.org/x", "https://***@example.org/x"),
        ("n_tokens = 512, --max-tokens 5, prompt eval: 5 tokens", None),
        ("http://127.0.0.1:8080/v1 risk-free task-12 sk-1", None),
    ],
)
def test_secrets_are_hidden_and_nothing_else(given_: str, shown: str | None) -> None:
    assert redact_secrets(given_) == (given_ if shown is None else shown)


def test_known_places_are_named_and_others_left_alone() -> None:
    redact = Redactor({Path("/home/ada"): "~", Path("/home/ada/.models"): "models", Path("/"): "root"})
    text = "/home/ada/.models/x '/home/ada' /home/adam /mnt/home/ada x=/home/ada/y"
    assert redact(text) == "models/x '~' /home/adam /mnt/home/ada x=~/y"


@pytest.mark.parametrize(
    "hostile", ["A" * 65536, "--" * 32768, "://" + "a" * 65536, "://a:" * 13000, "a_" * 32768, "a-" * 32768]
)
def test_redaction_takes_no_time_on_hostile_text(hostile: str) -> None:
    started = time.perf_counter()
    redact_secrets(hostile)
    assert time.perf_counter() - started < 2


def test_an_allowed_prefix_does_not_let_a_secret_through() -> None:
    environ = {"NVIDIA_API_KEY": "x", "CUDA_VISIBLE_DEVICES": "0", "XDG_SESSION_COOKIE": "x", "http_proxy": "u:p@h"}
    assert child_environment(environ, {"MINE": "1"}, "t") == {
        "CUDA_VISIBLE_DEVICES": "0",
        "SPT_NOENV": "1",
        "MINE": "1",
        "DMR_ENGINE_ID": "t",
    }


class Second:
    """A clock that stands still."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_program_that_prints_without_end_is_logged_in_part_and_its_end_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = Second()
    log = LineLog(logging.getLogger("dmr.engine.test"), clock)
    for number in range(3000):
        log.feed(b"line %d\n" % number)
    log.feed(b"half a line")
    assert len(caplog.messages) == 500
    assert log.tail().endswith("line 2999\nhalf a line")

    clock.now += 1.0
    log.feed(b" and its end\nnext\n")
    assert caplog.messages[500:] == ["[2500 lines left out: more than 500 in a second]", "next"]


def test_one_piece_with_too_many_lines_is_cut_where_the_budget_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = LineLog(logging.getLogger("dmr.engine.test"), Second())
    log.feed(b"".join(b"line %d\n" % number for number in range(600)))
    log.flush()
    assert caplog.messages[499:] == ["line 499", "[100 lines left out: more than 500 in a second]"]
