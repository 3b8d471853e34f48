"""Raw flags: what a table makes of words, what it refuses, and that nothing else can come out of it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dmr_core.domain.flag_kinds import Choice, Integer, Json, Kind, Number, Pattern, Several, Text
from dmr_core.domain.flags import Flag, FlagTable, latest, render, split
from dmr_core.errors import InvalidConfigurationError, PluginError

TABLE = FlagTable(
    "engine",
    (
        Flag(names=("--count", "-c"), kind=Integer(-1), setting="context-size"),
        Flag(names=("--share",), kind=Number(0, 1)),
        Flag(names=("--map",), off_names=("--no-map",)),
        Flag(names=("--quiet", "-q")),
        Flag(names=("--kind",), kind=Choice(("one", "two"))),
        Flag(names=("--name",), kind=Pattern(r"[a-z.:]+", "a name")),
        Flag(names=("--split",), kind=Several(Number(0), most=3)),
        Flag(names=("--template",), kind=Text("a template"), slot="template"),
        Flag(names=("--template-name",), kind=Choice(("a",)), slot="template"),
        Flag(names=("--arguments",), kind=Json(), collects=True),
        Flag(names=("--schema",), kind=Json(schema=True)),
    ),
    withheld={"--counter": "", "--key": "it holds a secret"},
)


def read(*words: str) -> tuple[str, ...]:
    return render(TABLE.parse(words))


def refusal(*words: str) -> str:
    with pytest.raises(InvalidConfigurationError) as caught:
        TABLE.parse(words)
    assert caught.value.param == "runtime-flags"
    return caught.value.message


@pytest.mark.parametrize(
    ("words", "rendered"),
    [
        ((), ()),
        (("--count", "4"), ("--count", "4")),
        (("--count=4",), ("--count", "4")),
        (("-c", "-1"), ("-c", "-1")),
        (("-c=-1",), ("-c", "-1")),
        (("--map", "--no-map", "-q"), ("--map", "--no-map", "-q")),
        (("--template_name=a",), ("--template-name", "a")),
        (("--template", "{{ a / b }}\\n\n"), ("--template", "{{ a / b }}\\n\n")),
        (("--arguments={'a=b'}".replace("'a=b'", '"a=b": "/"'),), ("--arguments", '{"a=b": "/"}')),
        (("--split", "1,.5,2e1"), ("--split", "1,.5,2e1")),
        (("--template=",), None),
    ],
)
def test_words_become_pairs_and_switches(words: tuple[str, ...], rendered: tuple[str, ...] | None) -> None:
    if rendered is None:
        assert "invalid value" in refusal(*words)
    else:
        assert rendered == read(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--nothing",), 'runtime flag "--nothing" is not allowed for backend "engine"'),
        (("--counts=1",), 'runtime flag "--counts" is not allowed for backend "engine": did you mean "--count"?'),
        (("--COUNT",), 'runtime flag "--COUNT" is not allowed for backend "engine": did you mean "--count"?'),
        (("--counter",), 'runtime flag "--counter" is not allowed for backend "engine"'),
        (("--key", "x"), 'runtime flag "--key" is not allowed for backend "engine": it holds a secret'),
        (("--",), 'runtime flag "--" is not allowed for backend "engine"'),
        (("-",), 'runtime flag "-" is not allowed for backend "engine"'),
        (("-\n",), 'runtime flag "-\\n" is not allowed for backend "engine"'),
        (("-²",), 'runtime flag "-²" is not allowed for backend "engine"'),
        (("4",), 'runtime flags begin with the value "4": name the flag it belongs to first'),
        (("",), 'runtime flags begin with the value "": name the flag it belongs to first'),
        (("-4",), 'runtime flags begin with the value "-4": name the flag it belongs to first'),
        (("-q", "4"), 'runtime flag "-q" takes no value, and "4" follows it'),
        (
            ("-c", "4", "5"),
            'runtime flag "-c" takes one value, and "5" follows it; a value with spaces has to be quoted',
        ),
        (("-q", "a/b"), "invalid runtime flag \"a/b\": paths are not allowed (contains '/' or '\\')"),
        (("--quiet=1",), 'runtime flag "--quiet" takes no value, and "1" was given'),
        (("--no-map=",), 'runtime flag "--no-map" takes no value, and "" was given'),
        (("-c",), 'runtime flag "-c" needs a value: an integer of at least -1'),
        (
            ("-c", "-q"),
            (
                'runtime flag "-c" needs a value: an integer of at least -1; "-q" is none: '
                "value cannot start with '-' unless followed by a digit"
            ),
        ),
        (
            ("--template=--key=x",),
            "invalid flag \"--template=--key=x\": value cannot start with '-' unless followed by a digit",
        ),
        (("-c", "x"), 'invalid value "x" for runtime flag "-c": use an integer of at least -1'),
        (("--name", "a\\b"), "invalid runtime flag \"a\\\\b\": paths are not allowed (contains '/' or '\\')"),
        (("--name=//h",), "invalid runtime flag \"--name=//h\": paths are not allowed (contains '/' or '\\')"),
        (("--name", "a\nb"), 'invalid runtime flag "a\\nb": control characters are not allowed'),
        (("--template", "a\0b"), 'invalid runtime flag "a\\u0000b": control characters are not allowed'),
        (("--template", "\x9b"), 'invalid runtime flag "\x9b": control characters are not allowed'),
        (("--name", "a" * 1025), 'the value of runtime flag "--name" is longer than 1024 bytes: use a name'),
        (("--name", "B" * 99), f'invalid value "{"B" * 80}…" for runtime flag "--name": use a name'),
        (("--template", "\ud800"), "invalid runtime flags: they hold half a character (a lone surrogate)"),
        (("-q",) * 257, "257 runtime flags and values are too many: give at most 256"),
        (("x" * 262145,), "runtime flags of 262145 bytes are too long: give at most 262144"),
    ],
)
def test_a_refusal_names_the_flag_and_what_is_allowed(words: tuple[str, ...], message: str) -> None:
    assert message == refusal(*words)


@pytest.mark.parametrize(
    ("kind", "good", "bad", "expected"),
    [
        (Integer(), ["0", "-5", "007", "-2147483648"], ["", "+1", "1.0", "1_0", "٣", " 1", "2147483648"], "an integer"),
        (Integer(0, 9), ["0", "9"], ["-1", "10"], "an integer from 0 to 9"),
        (Integer(high=9), ["-7"], ["10"], "an integer of at most 9"),
        (Integer(1, words=("auto",)), ["auto", "1"], ["0", "AUTO"], "an integer of at least 1, or auto"),
        (Number(), ["1", "1.", ".5", "-1e-3", "0e5"], ["", ".", "nan", "inf", "1e39", "1e-39", "1_0", "0x1"], "a number"),
        (Number(0, 1), ["0", "1"], ["-0.1", "1.1"], "a number from 0 to 1"),
        (Number(0, above=True), ["0.1"], ["0", "-1"], "a number greater than 0"),
        (Choice(("a", "b")), ["a"], ["", "c", "A"], "one of a, b"),
        (Choice(("a",)), ["a"], ["b"], "a"),
        (Pattern("[a-z]+", "a word"), ["ab"], ["", "a1", "ab\n"], "a word"),
        (Several(Choice(("a", "b")), ";", most=2), ["a", "b;a"], ["", "a;", "a;b;a"],
         "at most 2 values separated by ';', each one of a, b"),
        (Text(), ["x", " "], [""], "text of at most 64 KiB"),
        (Json(), ["{}", '{"a": "/"}'], ["", "[]", "1", "{", '{"a": NaN}', "[" * 9999], "a JSON object"),
        (Json(schema=True), ["{}", "true", '{"$ref": "#/a"}', '{"properties": {"$ref": {}}}', "[1]"],
         ['{"$ref": "file.json"}', '[{"a": {"$ref": "http://x"}}]', "[" * 100_000],
         "a JSON schema, in which every $ref begins with '#'"),
    ],
)  # fmt: skip
def test_a_kind_takes_its_values_and_no_others(kind: Kind, good: list[str], bad: list[str], expected: str) -> None:
    assert good == [text for text in (*good, *bad) if kind.accepts(text)]
    assert expected == kind.expected


def test_the_last_use_of_a_slot_counts_and_collected_ones_add_up() -> None:
    words = ("-q", "--template", "x", "--arguments", "{}", "--map", "--quiet", "--no-map", "--arguments", "{}")
    uses = latest(TABLE.parse((*words, "--template-name", "a")))

    assert ("--arguments", "{}", "--quiet", "--no-map", "--arguments", "{}", "--template-name", "a") == render(uses)
    assert [use.name for use in uses if use.off] == ["--no-map"]


def test_a_table_tells_which_typed_setting_a_flag_decides() -> None:
    decided = TABLE.settings_from_flags(("-c", "1", "--quiet", "--count=2"))

    assert {"context-size": ("--count", "2")} == {name: use.words for name, use in decided.items()}


def test_an_unknown_flag_is_passed_on_only_where_somebody_is_told() -> None:
    said: list[str] = []
    words = ("--new", "1", "--spicy", "--other=x", "-z", "-1", "--last")

    assert ("--new", "1", "--spicy", "--other", "x", "-z", "-1", "--last") == render(
        TABLE.parse(words, unknown=said.append)
    )
    assert said == ["--new", "--spicy", "--other", "-z", "--last"]
    with pytest.raises(InvalidConfigurationError, match="value cannot start with '-'"):
        TABLE.parse(("--new=--key",), unknown=said.append)


@pytest.mark.parametrize("names", [("--a", "--a"), ("--withheld",)])
def test_a_table_that_says_one_thing_twice_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(PluginError, match="twice"):
        FlagTable("engine", (Flag(names=names),), withheld={"--withheld": ""})


def test_flags_are_found_and_used_by_name() -> None:
    assert TABLE.find("--no_map") is TABLE.find("--map")
    assert TABLE.find("--nothing") is None
    assert TABLE.use("-q").words == ("-q",)
    assert {"-c", "--no-map"} < TABLE.names


NAMES = sorted({*TABLE.names, "--key", "--nothing", "-", "--"})
VALUES = st.one_of(
    st.sampled_from(
        ["1", "-1", "0.5", "one", "a", "{}", "1,2", "a/b", "C:\\x", "http://x", "--key", '{"$ref":"http://x"}']
    ),
    st.text(max_size=8),
)
WORDS = st.lists(
    st.one_of(
        st.sampled_from(NAMES), VALUES, st.builds("{}={}".format, st.sampled_from(NAMES), VALUES), st.text(max_size=6)
    ),
    max_size=8,
)


@given(WORDS)
@example(["--template=-1/x"])
@example(["--name", "-1"])
def test_what_parses_renders_to_words_that_parse_to_the_same(words: list[str]) -> None:
    for lenient in ({}, {"unknown": lambda _name: None}):
        try:
            uses = TABLE.parse(words, **lenient)
        except InvalidConfigurationError:
            continue
        assert TABLE.parse(render(uses), **lenient) == uses
        assert latest(latest(uses)) == latest(uses)


@given(WORDS)
def test_nothing_but_flags_of_the_table_and_their_values_comes_out(words: list[str]) -> None:
    try:
        rendered = list(read(*words))
    except InvalidConfigurationError:
        return
    while rendered:  # an engine's own reading: by arity, left to right
        flag = TABLE.find(name := rendered.pop(0))
        assert flag is not None
        assert name in TABLE.names
        if flag.kind is not None:
            value = rendered.pop(0)
            assert not value.startswith("-") or value[1:2].isdigit()
            assert "\0" not in value
            assert flag.kind.prose or not set(value) & set("/\\")
            assert flag.kind.accepts(value)


@given(st.lists(st.tuples(st.sampled_from(["--template", "--name"]), st.text("ab '\"/\\=-\n", min_size=1, max_size=9))))
def test_raw_flags_quoted_by_a_shell_are_the_words_that_were_meant(pairs: list[tuple[str, str]]) -> None:
    words = [word for pair in pairs for word in pair]

    def outcome(given_words: list[str]) -> Any:
        try:
            return TABLE.parse(given_words)
        except InvalidConfigurationError as exc:
            return exc.message

    assert outcome(list(split(shlex.join(words)))) == outcome(words)


def test_raw_flags_that_no_shell_would_read_are_refused() -> None:
    assert split("--template 'a b' -c=1 # no comment") == ("--template", "a b", "-c=1", "#", "no", "comment")
    for text, complaint in (
        ("'open", "invalid runtime flags: No closing quotation"),
        ("x" * 262145, "too long: give at most"),
    ):
        with pytest.raises(InvalidConfigurationError, match=complaint) as caught:
            split(text)
        assert caught.value.param == "raw-runtime-flags"
