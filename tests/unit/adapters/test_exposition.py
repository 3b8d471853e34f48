"""Reading, relabelling and merging pages of figures, whatever an engine says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from dmr_adapters.metrics.exposition import TooManySamplesError, family, merge, parse, relabel

OURS = {"backend": "llama.cpp", "model": 'a"b\\c\nd', "mode": "completion"}


def page_of(*texts: str) -> str:
    """One page of several engines' pages, as the service makes it."""
    pages = [
        relabel(parse(text).values(), {**OURS, "model": f"m{number}"}, reserved="dmr_")
        for number, text in enumerate(texts)
    ]
    return merge(pages)


def series(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every figure a Prometheus parser finds."""
    found = {}
    for entry in text_string_to_metric_families(page):
        for sample in entry.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def labelled(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset({**OURS, "model": "m0", **labels}.items())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a 1", "a 1"),
        ("a\t1", "a 1"),
        ("  a   1.5   1700000000000  ", "a 1.5"),
        ("a{} 1", "a 1"),
        ('a{b="c"} 1', 'a{b="c"} 1'),
        ('a{b="c"}1', 'a{b="c"} 1'),
        ('a { b = "c" , d = "e" , } 1', 'a{b="c",d="e"} 1'),
        ('a{b="\\\\ \\" \\n {},=#"} 1', 'a{b="\\\\ \\" \\n {},=#"} 1'),
        ('a{b="\\x"} 1', 'a{b="\\\\x"} 1'),
        ('a{b="é😀"} 1', 'a{b="é😀"} 1'),
        ('a{b="\x1b[2J"} 1', 'a{b="�[2J"} 1'),
        ("a:b_c 1e-3", "a:b_c 1e-3"),
        ("a +Inf", "a +Inf"),
        ("a -inf", "a -Inf"),
        ("a nan", "a NaN"),
        ("a 1\r", "a 1"),
    ],
)
def test_a_well_formed_line_is_kept(text: str, expected: str) -> None:
    assert f"# TYPE {expected.partition(' ')[0].partition('{')[0]} untyped\n{expected}\n" == merge(
        [parse(text).values()]
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a b",
        "1a 1",
        "a-b 1",
        "{} 1",
        "a 1 2 3",
        "a 1 x",
        "a 0x10",
        "a 1_000",
        "a \u0661",
        "a " + "9" * 5000,
        "a{b} 1",
        'a{b="c} 1',
        'a{b="c" d="e"} 1',
        'a{,b="c"} 1',
        'a{b="c"',
        'a{b="c"} ',
        'a{1b="c"} 1',
        'a{b="c",b="d"} 1',
        'a{__name__="b"} 1',
        "a{" + ",".join(f'l{n}=""' for n in range(65)) + "} 1",
        'a_bucket{le="x"} 1',
        'a{quantile="x"} 1',
        '{"a"} 1',
        "<html>",
        "# EOF",
        "# TYPE",
        "# HELP a-b c",
        "\x00\xff",
    ],
)
def test_anything_else_is_left_out(text: str) -> None:
    assert {("ok", frozenset()): 1.0} == series(merge([parse(f"{text}\nok 1").values()]))


def test_every_series_carries_the_labels_of_its_runner() -> None:
    page = page_of("# HELP a Things.\n# TYPE a counter\na 1", "# HELP a Others.\n# TYPE a counter\na 2")

    assert page == (
        "# HELP a Things.\n"
        "# TYPE a counter\n"
        'a{backend="llama.cpp",model="m0",mode="completion"} 1\n'
        'a{backend="llama.cpp",model="m1",mode="completion"} 2\n'
    )


def test_a_model_may_have_any_name() -> None:
    page = merge([relabel(parse("a 1").values(), OURS, reserved="dmr_")])

    assert {("a", frozenset(OURS.items())): 1.0} == series(page)


def test_labels_of_the_engine_that_have_our_names_are_exported() -> None:
    page = page_of('a{model="x",exported_model="y",backend="z"} 1')

    expected = labelled("a", exported_model="y", exported_exported_model="x", exported_backend="z")
    assert {expected: 1.0} == series(page)


def test_an_engine_cannot_speak_for_the_service() -> None:
    page = page_of("dmr_requests_total 7\n# TYPE dmr_x histogram\ndmr_x_count 1\nok 1")

    assert {labelled("ok"): 1.0} == series(page)


def test_a_name_that_means_something_else_elsewhere_is_left_out_with_a_note() -> None:
    page = page_of("# TYPE a counter\na 1", "# TYPE a gauge\na 2\n# TYPE b gauge\nb 1")

    assert "# Left out: a as a gauge, because it is a counter elsewhere\n" in page
    assert {labelled("a"): 1.0, labelled("b", model="m1"): 1.0} == {
        (name.removesuffix("_total"), labels): value for (name, labels), value in series(page).items()
    }


def test_samples_never_pass_for_those_of_another_family() -> None:
    histogram = '# TYPE TYPE histogram\nTYPE_bucket{le="+Inf"} 1\nTYPE_sum 1\nTYPE_count 1'
    page = page_of(histogram, "# TYPE TYPE_count gauge\nTYPE_count 7")

    assert "# Left out: TYPE_count, whose samples would pass for those of TYPE\n" in page
    assert 7.0 not in series(page).values()
    assert len(series(page)) == 3


def test_a_figure_that_is_there_twice_counts_once() -> None:
    assert {labelled("a", b="1", c="2"): 1.0} == series(page_of('a{b="1",c="2"} 1\na{c="2",b="1"} 2'))


def test_a_histogram_has_no_figure_of_its_own_name() -> None:
    page = page_of('# TYPE a histogram\na_bucket{le="1"} 1\na_bucket{le="+Inf"} 2\na_sum 1.5\na_count 2\na 9')

    assert {"a_bucket", "a_sum", "a_count"} == {name for name, _ in series(page)}


def test_a_type_that_comes_late_or_twice_or_is_unknown_does_not_count() -> None:
    page = page_of("a 1\n# TYPE a counter\n# TYPE b stateset\nb 1\n# TYPE c gauge\n# TYPE c counter\nc 1")

    assert "# TYPE a untyped\n" in page
    assert "# TYPE b untyped\n" in page
    assert "# TYPE c gauge\n" in page


def test_a_page_of_too_many_samples_is_refused() -> None:
    with pytest.raises(TooManySamplesError, match="more than 3 samples"):
        parse("a 1\n" * 4, limit=3)


def test_figures_of_our_own() -> None:
    made = family("dmr_x_bytes", "gauge", "What.", [({"kind": "host"}, 1.5e9), ({"kind": "device"}, float("inf"))])

    assert merge([[made]]) == (
        "# HELP dmr_x_bytes What.\n"
        "# TYPE dmr_x_bytes gauge\n"
        'dmr_x_bytes{kind="host"} 1500000000.0\n'
        'dmr_x_bytes{kind="device"} +Inf\n'
    )


def test_reading_takes_time_in_proportion_to_the_page() -> None:
    """Pages made to be slow to read: were anything quadratic, this would not end."""
    for text in ('a{b="' + "\\" * 400_001, 'a{b="' + '\\"' * 200_000, "a" + " " * 400_000 + "x", "a{" * 200_000):
        assert merge([parse(text).values()]) == ""


NAMES = st.sampled_from(["a", "a_bucket", "a_sum", "a_count", "b", "dmr_a", "TYPE", "HELP", "a:b"])
VALUES = st.sampled_from(["1", "-1.5e3", "NaN", "+Inf", "x", "", "1 2", "0x1", "1_0"])
TEXTS = st.text(st.sampled_from('ab"\\\n{},=# \té\r\x00\u2028\x85'), max_size=8)
LABELS = st.dictionaries(
    st.sampled_from(["le", "quantile", "model", "backend", "exported_model", "__name__", "x"]), TEXTS, max_size=3
)


@st.composite
def lines(draw: st.DrawFn) -> str:
    """A line of a page: good, nearly good, or anything."""
    match draw(st.integers(0, 4)):
        case 0:
            kind = draw(st.sampled_from(["counter", "gauge", "histogram", "summary", "untyped", "info", ""]))
            return f"# TYPE {draw(NAMES)} {kind}"
        case 1:
            return f"# HELP {draw(NAMES)} {draw(TEXTS)}"
        case 2:
            return draw(st.text(max_size=30))
        case _:
            quoted = [f'{name}="{_quoted(value)}"' for name, value in draw(LABELS).items()]
            return f"{draw(NAMES)}{{{draw(st.sampled_from([',', ', '])).join(quoted)}}} {draw(VALUES)}"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


PAGES = st.lists(lines(), max_size=12).map("\n".join)


@settings(max_examples=400, deadline=None)
@given(st.lists(PAGES, max_size=3))
def test_the_page_can_always_be_read_and_every_series_is_labelled(texts: list[str]) -> None:
    found = series(page_of(*texts))

    for name, labels in found:
        assert not name.startswith("dmr_")
        values = dict(labels)
        assert (values["backend"], values["mode"]) == ("llama.cpp", "completion")
        assert values["model"] in {"m0", "m1", "m2"}


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_what_was_escaped_is_read_as_it_was(value: str, text: str) -> None:
    labels = {"model": value}
    page = merge([relabel(parse(f"# HELP a {text.replace(chr(10), ' ')}\na 1").values(), labels, reserved="dmr_")])

    (read,) = [s for entry in text_string_to_metric_families(page) for s in entry.samples]
    assert read.labels == labels
