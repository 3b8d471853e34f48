"""Our response parser against h11's: the same reading of what is valid, and nothing else accepted."""

from dataclasses import dataclass
from itertools import pairwise

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dmr_adapters.transport.response_parser import MalformedResponseError, ResponseParser

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=12).map(str.encode)
VALUE = st.binary(max_size=20).map(
    lambda raw: bytes(byte for byte in raw if byte == 9 or 32 <= byte < 127 or byte > 127).strip(b" \t")
)
FRAMING = {b"content-length", b"transfer-encoding", b"connection", b"upgrade"}


@dataclass
class Whole:
    """A response as both parsers should see it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@st.composite
def fields(draw: st.DrawFn) -> list[tuple[bytes, bytes]]:
    found = draw(st.lists(st.tuples(TOKEN, VALUE), max_size=5))
    return [(name, value) for name, value in found if name.lower() not in FRAMING]


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """A valid response of any of the three framings, now and then after an interim one."""
    status = draw(st.sampled_from([200, 200, 200, 201, 204, 304, 404, 500, 599]))
    body = draw(st.binary(max_size=300))
    lines = [b"%b:%b%b" % (name, draw(st.sampled_from([b"", b" ", b" \t"])), value) for name, value in draw(fields())]
    framing = draw(st.sampled_from(["length", "chunked", "close"])) if status not in {204, 304} else "none"
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: " + draw(st.sampled_from([b"chunked", b"Chunked"])))
        body = draw(chunked(body))
    elif framing == "none":
        body = b""
    if draw(st.booleans()):
        lines.append(b"Connection: " + draw(st.sampled_from([b"close", b"keep-alive", b"x, close"])))
    lines = draw(st.permutations(lines))
    interim = draw(st.sampled_from([b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 x\r\na: b\r\n\r\n"]))
    reason = draw(st.sampled_from([b" OK", b" ", b" No Such Thing"]))
    head = b"HTTP/1.1 %d%b\r\n" % (status, reason)
    return interim + head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    parts = []
    while body:
        size = draw(st.integers(1, len(body)))
        number = draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % size
        extension = draw(st.sampled_from([b"", b"", b";a=b", b';a="b c"']))
        parts.append(number + extension + b"\r\n" + body[:size] + b"\r\n")
        body = body[size:]
    trailer = draw(st.sampled_from([b"", b"", b"x-sum: 1\r\n"]))
    return b"".join(parts) + b"0\r\n" + trailer + b"\r\n"


def split(raw: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(raw) + 1) for cut in cuts} | {0, len(raw)})
    return [raw[start:end] for start, end in pairwise(places)]


def ours(pieces: list[bytes], method: str = "GET") -> tuple[Whole, ResponseParser]:
    parser = ResponseParser(method)
    body = []
    for piece in pieces:
        parser.feed(piece)
        if parser.buffered:
            body.append(parser.take())
    if not parser.complete:
        parser.eof()
    assert parser.complete
    return Whole(parser.status, list(parser.headers), b"".join(body)), parser


def theirs(raw: bytes) -> tuple[Whole, bool]:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    connection.receive_data(b"")
    whole = Whole(0, [], b"")
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            whole.status = event.status_code
            # h11 spells this one coding its own way, and we as it came.
            spelling = b"Chunked" if b"Transfer-Encoding: Chunked\r" in raw else b"chunked"
            whole.headers = [
                (name, spelling if name == b"transfer-encoding" else value) for name, value in event.headers
            ]
        elif isinstance(event, h11.Data):
            whole.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            ends_with_connection = (
                b"\r\ntransfer-encoding:" not in raw.lower() and b"\r\ncontent-length" not in raw.lower()
            )
            has_body = whole.status not in {204, 304}
            return whole, connection.their_state is h11.DONE and not (has_body and ends_with_connection)
        else:
            assert isinstance(event, h11.InformationalResponse)


@given(raw=responses(), cuts=st.lists(st.integers(0, 2000), max_size=8))
def test_valid_responses_are_read_as_h11_reads_them(raw: bytes, cuts: list[int]) -> None:
    expected, reusable = theirs(raw)
    found, parser = ours(split(raw, cuts))
    assert (found.status, found.body) == (expected.status, expected.body)
    assert found.headers == expected.headers
    assert parser.reusable == reusable


@given(raw=responses())
def test_byte_by_byte_is_no_different(raw: bytes) -> None:
    whole, _ = ours([raw])
    assert ours([raw[index : index + 1] for index in range(len(raw))])[0] == whole


@given(raw=responses(), place=st.integers(0, 2000), byte=st.binary(min_size=0, max_size=2))
@example(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", place=17, byte=b"\x00")
def test_damaged_responses_are_refused_or_read_the_same_however_they_arrive(
    raw: bytes, place: int, byte: bytes
) -> None:
    place %= len(raw)
    damaged = raw[:place] + byte + raw[place + 1 :]

    def outcome(pieces: list[bytes]) -> object:
        parser = ResponseParser("GET")
        try:
            for piece in pieces:
                parser.feed(piece)
        except MalformedResponseError:
            return "refused"
        parser.eof()
        return parser.complete, parser.status, parser.headers, parser.take(), parser.reusable

    assert outcome([damaged]) == outcome([damaged[index : index + 1] for index in range(len(damaged))])


@given(raw=st.binary(max_size=200), ended=st.booleans())
def test_noise_is_never_a_crash(raw: bytes, ended: bool) -> None:
    parser = ResponseParser("GET")
    try:
        parser.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + raw)
    except MalformedResponseError:
        return
    if ended:
        parser.eof()


def head(*lines: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


CHUNKED = head(b"transfer-encoding: chunked")


@pytest.mark.parametrize(
    "raw",
    [
        head(b"content-length: 5", b"transfer-encoding: chunked") + b"0\r\n\r\n",
        head(b"content-length: 5", b"content-length: 6") + b"abcdef",
        head(b"content-length: 5, 5") + b"abcde",
        head(b"content-length: -1"),
        head(b"content-length: +5") + b"abcde",
        head(b"content-length: 0x5") + b"abcde",
        head(b"content-length: 5 5") + b"abcde",
        head(b"content-length:"),
        head(b"content-length: 99999999999999999999"),
        head("content-length: \N{ARABIC-INDIC DIGIT FIVE}".encode()),
        head(b"transfer-encoding: gzip, chunked"),
        head(b"transfer-encoding: identity"),
        head(b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
        head(b"transfer-encoding: \x0bchunked"),
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        head(b"no colon here"),
        head(b": no name"),
        head(b"name : value"),
        head(b" folded: line"),
        head(b"a: b", b" folded"),
        head(b"a: b\x00c"),
        head(b"a: b\rc"),
        head(b"a: b\nc: d"),
        head(b"a\x00: b"),
        b"HTTP/1.1 200 OK\na: b\n\n" + b"x" * 70_000,
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 100 x\r\n\r\n" * 20,
        head(b"a: " + b"b" * 70_000),
        CHUNKED + b"\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"0x5\r\nabcde\r\n",
        CHUNKED + b" 5\r\nabcde\r\n",
        CHUNKED + b"5 5\r\nabcde\r\n",
        CHUNKED + b"1000000000000000\r\n",
        CHUNKED + b"5\nabcde\r\n" + b"x" * 5000,
        CHUNKED + b"5;a\x00b\r\nabcde\r\n",
        CHUNKED + b"5\r\nabcdefgh",
        CHUNKED + b"5\r\nabcde\n0\r\n\r\n",
        CHUNKED + b"5;" + b"x" * 5000,
        CHUNKED + b"0\r\nno colon\r\n\r\n",
        CHUNKED + b"0\r\n" + b"a: b\r\n" * 20_000,
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(raw: bytes) -> None:
    for pieces in ([raw], split(raw, list(range(0, len(raw), 7)))):
        with pytest.raises(MalformedResponseError):
            ours(pieces)


def test_bytes_after_the_end_spoil_the_connection_but_not_the_answer() -> None:
    found, parser = ours([head(b"content-length: 2") + b"okHTTP/1.1 200 OK\r\n\r\n"])
    assert found.body == b"ok"
    assert not parser.reusable


def test_two_lengths_that_agree_are_one() -> None:
    assert ours([head(b"content-length: 2", b"content-length: 2") + b"ok"])[0].body == b"ok"


def test_an_old_server_keeps_a_connection_only_if_it_says_so() -> None:
    for option, reusable in ((b"", False), (b"connection: Keep-Alive\r\n", True)):
        _, parser = ours([b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n" + option + b"\r\n"])
        assert parser.reusable is reusable


def test_the_answer_to_head_has_no_body_whatever_it_says() -> None:
    for framing in (b"content-length: 100", b"transfer-encoding: chunked"):
        found, parser = ours([head(framing)], "HEAD")
        assert found.body == b""
        assert parser.reusable


def test_bodies_are_not_copied_where_they_need_not_be() -> None:
    parser = ResponseParser("GET")
    parser.feed(head(b"content-length: 100000"))
    piece = bytes(50_000)
    parser.feed(piece)
    assert parser.take() is piece
