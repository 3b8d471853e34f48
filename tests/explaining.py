"""What a model's engine should be started with, worked out from what was said alone, and from its words alone.

Nothing here knows how the service does it: who wins over whom and how flags are spelled is written down by hand.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from typing import Any, Final

import attrs
import pytest
from hypothesis import strategies as st

from dmr_backends_llamacpp.server_flags import parse as parse_for_bundled
from dmr_core.domain.keep_alive import KeepAlive

PATHS: Final = {"completion": "/v1/chat/completions", "embedding": "/v1/embeddings", "reranking": "/rerank"}
MODE_FLAGS: Final = {"embedding": ["--embeddings"], "reranking": ["--reranking", "--rerank", "--embedding"]}


@attrs.frozen
class Knob:
    """A setting of llama-server, written down here by hand: what explain calls it, and how it is spelled.

    ``values`` is empty for a switch; ``off`` are the spellings that turn it off.
    """

    name: str
    spellings: tuple[str, ...]
    values: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    clients: bool = True
    operators: bool = True


KNOBS: Final = (
    Knob("context-size", ("-c", "--ctx-size"), ("0", "256", "4096")),
    Knob("llamacpp.reasoning-budget", ("--reasoning-budget",), ("-1", "0", "77")),
    Knob("speculative.num_tokens", ("--spec-draft-n-max", "--draft-max"), ("1", "9")),
    Knob("speculative.min_acceptance_rate", ("--spec-draft-p-min", "--draft-p-min"), ("0.10", "0.75")),
    Knob("speculative.draft_model", ("--model-draft",), clients=False, operators=False, values=("",)),
    Knob("chat-template", ("--chat-template",), ("chatml", "llama3")),
    Knob("chat-template", ("--chat-template-file",), (__file__,), clients=False),
    Knob("mmproj", ("--mmproj",), ("",), clients=False, operators=False),
    Knob("lora", ("--lora",), (__file__,), clients=False),
    Knob("--gpu-layers", ("-ngl", "--gpu-layers", "--n-gpu-layers"), ("0", "12")),
    Knob("--metrics", ("--metrics",), off=("--no-metrics",)),
    Knob("--jinja", ("--jinja",), off=("--no-jinja",)),
    Knob("--mmap", ("--mmap",), off=("--no-mmap",)),
    Knob("--mmproj-auto", ("--mmproj-auto",), off=("--no-mmproj", "--no-mmproj-auto")),
    Knob("--cache-ram", ("-cram", "--cache-ram"), ("0", "64")),
    Knob("--pooling", ("--pooling",), ("cls", "last")),
    Knob("--embeddings", ("--embeddings", "--embedding"), clients=False, operators=False),
    Knob("--rerank", ("--rerank", "--reranking"), clients=False, operators=False),
    Knob("--temp", ("--temp", "--temperature"), ("0.2", "1.5")),
    Knob("--seed", ("-s", "--seed"), ("-1", "7")),
)
BY_WORD: Final = {word: knob for knob in KNOBS for word in (*knob.spellings, *knob.off)}
# Settings that are no flags of an engine.
NO_FLAGS: Final = frozenset({"keep_alive", "max-concurrency", "require", "accelerator"})
# Words of which the vector has to be full, and of which nobody chose anything.
NO_CHOICE: Final = ("--model", "--host", "--alias")


@attrs.frozen
class Use:
    """One use of a flag."""

    word: str
    value: str | None

    @property
    def words(self) -> list[str]:
        return [self.word] if self.value is None else [self.word, self.value]

    @property
    def said(self) -> tuple[str, str]:
        """The setting's name and value, as people know them."""
        knob = BY_WORD[self.word]
        if not knob.values:
            return knob.name, "false" if self.word in knob.off else "true"
        assert self.value is not None
        return knob.name, "-1" if (knob.name, self.value) == ("context-size", "0") else self.value


@attrs.frozen
class Case:
    """Everything that anybody said."""

    mode: str = "completion"
    native: bool = False
    packaged: int | None = None
    layers: frozenset[str] = frozenset()
    llama_args: tuple[Use, ...] | None = None
    keep_alive_variable: str | None = None
    configuration: dict[str, Any] = attrs.field(factory=dict)
    flags: tuple[Use, ...] = ()
    mode_flag: str | None = None
    raw: bool = False
    backend_in_path: bool = False
    keep_alive_in_request: str | int | None = None

    @property
    def environment(self) -> dict[str, str]:
        said = {}
        if self.llama_args is not None:
            said["LLAMA_ARGS"] = " ".join(f"'{word}'" for use in self.llama_args for word in use.words)
        if self.keep_alive_variable is not None:
            said["DMR_KEEP_ALIVE"] = self.keep_alive_variable
        return said

    @property
    def body(self) -> dict[str, Any]:
        """What is posted to ``/engines/_configure``."""
        words = [word for use in self.flags for word in use.words]
        if self.mode_flag:
            words.insert(0, self.mode_flag)
        flags: dict[str, Any] = {"raw-runtime-flags": shlex.join(words)} if self.raw else {"runtime-flags": words}
        return {"model": "ai/one", "mode": self.mode, **self.configuration, **(flags if words else {})}


def uses(*, operator: bool) -> st.SearchStrategy[tuple[Use, ...]]:
    def written(knob: Knob) -> st.SearchStrategy[Use]:
        if not knob.values:
            return st.sampled_from([Use(word, None) for word in (*knob.spellings, *knob.off)])
        return st.builds(Use, st.sampled_from(knob.spellings), st.sampled_from(knob.values))

    allowed = [knob for knob in KNOBS if (knob.operators if operator else knob.clients)]
    return st.lists(st.sampled_from(allowed).flatmap(written), max_size=5).map(tuple)


def document(draw: st.DrawFn) -> dict[str, Any]:
    """Typed settings, each of them there or not."""
    speculative = {
        "draft_model": "ai/draft",
        **_some(draw, "num_tokens", [0, 4, 16]),
        **_some(draw, "min_acceptance_rate", [0, 0.5, 1]),
    }
    return {
        **_some(draw, "context-size", [-1, 512, 8192]),
        **_some(draw, "keep_alive", ["0s", "5m", "90s", "2h", "-1"]),
        **_some(draw, "max-concurrency", [1, 16]),
        **_some(draw, "require", ["none"]),
        **_some(draw, "llamacpp", [{"reasoning-budget": budget} for budget in (-1, 0, 100)]),
        **_some(draw, "speculative", [speculative]),
    }


def _some(draw: st.DrawFn, name: str, values: list[Any]) -> dict[str, Any]:
    value = draw(st.sampled_from([None, *values]))
    return {} if value is None else {name: value}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    mode = draw(st.sampled_from(sorted(PATHS)))
    return Case(
        mode=mode,
        native=draw(st.booleans()),
        packaged=draw(st.sampled_from([None, -1, 0, 128, 2048])),
        layers=frozenset(draw(st.lists(st.sampled_from(["template", "mmproj", "lora"]), unique=True))),
        llama_args=draw(st.none() | uses(operator=True)),
        keep_alive_variable=draw(st.sampled_from([None, "", '""', "5m", "30m", "-1"])),
        configuration=document(draw),
        flags=draw(uses(operator=False)),
        mode_flag=draw(st.sampled_from([None, *MODE_FLAGS.get(mode, [])])),
        raw=draw(st.booleans()),
        backend_in_path=draw(st.booleans()),
        keep_alive_in_request=draw(st.sampled_from([None, "5m", "3m", "1h", "-1", 40])),
    )


# --- what is expected, from what was said alone

Claims = list[tuple[str, str]]
"""Values and who wants them, the strongest last."""


def expected_claims(case: Case, *, running: bool) -> dict[str, Claims]:
    """Who wins over whom is the reference's order of arguments; of a runner that is there the last request decides."""
    claims: dict[str, Claims] = defaultdict(list)

    def say(name: str, value: object, source: str) -> None:
        claims[name].append((str(value), source))

    operator = list({_slot(use): use for use in case.llama_args or ()}.values())
    operators = bool(operator)
    said = {use.said[0] for use in (*operator, *case.flags)}
    for name, value in (("--gpu-layers", "999"), ("--metrics", "true")):
        if not operators or name in said:
            say(name, value, "default")
    if case.mode != "completion":
        say("--embeddings", "true", "runner")
    if case.mode == "reranking":
        say("--rerank", "true", "runner")
    say("--jinja", "true", "default")
    say("--cache-ram", "16", "default")
    if case.mode == "embedding":
        say("--pooling", "mean", "default")
    for use in operator:
        say(*use.said, "environment")
    if case.packaged is not None and (case.packaged == -1 or case.packaged > 0):
        say("context-size", case.packaged, "artifact")
    if "template" in case.layers and case.mode == "completion":
        say("chat-template", "TEMPLATE", "artifact")
    if "mmproj" in case.layers:
        without = [use for use in (*operator, *case.flags) if use.said == ("--mmproj-auto", "false")]
        last = [use for use in (*operator, *case.flags) if use.said[0] == "--mmproj-auto"][-1:]
        if last and last == without[-1:]:
            claims["--mmproj-auto"].insert(0, ("MMPROJ", "artifact"))
        else:
            say("mmproj", "MMPROJ", "artifact")
    if "lora" in case.layers:
        say("lora", "LORA", "artifact")
    config = case.configuration
    if "context-size" in config:
        say("context-size", config["context-size"], "configuration")
    if "llamacpp" in config:
        say("llamacpp.reasoning-budget", config["llamacpp"]["reasoning-budget"], "configuration")
    speculative = config.get("speculative")
    if speculative:
        say("speculative.draft_model", "ai/draft", "configuration")
        if speculative.get("num_tokens"):
            say("speculative.num_tokens", speculative["num_tokens"], "configuration")
        if speculative.get("min_acceptance_rate"):
            say("speculative.min_acceptance_rate", f"{speculative['min_acceptance_rate']:.2f}", "configuration")
    for use in case.flags:
        say(*use.said, "configuration")
    if not claims["context-size"]:
        say("context-size", "the engine's own", "default")
    claims |= _expected_of_runner(case, running=running)
    return {name: wanted for name, wanted in claims.items() if wanted}


def _expected_of_runner(case: Case, *, running: bool) -> dict[str, Claims]:
    keep: Claims = [("5m0s", "default")]
    if (case.keep_alive_variable or "").strip('"'):
        keep.append((str(KeepAlive.parse(case.keep_alive_variable or "")), "environment"))
    if "keep_alive" in case.configuration:
        keep.append((str(KeepAlive.parse(case.configuration["keep_alive"])), "configuration"))
    wanted = case.keep_alive_in_request
    if running and wanted is not None:
        asked = str(KeepAlive.parse(f"{wanted}s" if isinstance(wanted, int) else wanted))
        if asked != keep[-1][0]:  # who asks for what is in force anyway changes nothing
            keep.append((asked, "request"))
    limit: Claims = [("unlimited", "default")]
    if "max-concurrency" in case.configuration:
        limit.append((str(case.configuration["max-concurrency"]), "configuration"))
    required: Claims = [("none", "default")]
    if "require" in case.configuration:
        required.append((case.configuration["require"], "configuration"))
    return {"keep_alive": keep, "max-concurrency": limit, "require": required, "accelerator": [("cpu", "runner")]}


def _slot(use: Use) -> object:
    """What a later use replaces; adapters add up."""
    return object() if use.word == "--lora" else use.said[0]


# --- what is the case, from the words alone


def read_words(words: list[str], names: dict[str, str]) -> dict[str, str]:
    """Settings as llama-server would take them from its arguments: the last use of a flag counts.

    ``names`` is what people call the files. Every word has to be known: nothing may be there that nobody explains.
    """
    found: dict[str, str] = {}
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word in NO_CHOICE:
            position += 1
            continue
        value = None
        if BY_WORD[word].values:
            value = words[position]
            position += 1
        name, shown = Use(word, value).said
        shown = names.get(shown, shown)
        found[name] = f"{found[name]} {shown}" if name == "lora" and name in found else shown
    return found


def check_settings(found: dict[str, Any], expected: dict[str, Claims], names: dict[str, str], case: Case) -> None:
    """Names, values, sources and what was overridden; and the values once more from the vector itself."""
    argv = found["argv"]
    first = argv.index("--model") if "--model" in argv else 0
    program = argv[: 1 if case.native else 3]
    assert first >= len(program)
    entries = [entry for entry in found["settings"] if entry["name"] != "program"]
    (started,) = [entry for entry in found["settings"] if entry["name"] == "program"]
    assert (started["value"], started["source"]) == (" ".join(program), "environment" if case.native else "default")

    actual = read_words(argv[len(program) :], names)
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        by_name[entry["name"]].append(entry)
    assert by_name.keys() == expected.keys()
    for name, claims in expected.items():
        shown = [(names.get(entry["value"], entry["value"]), entry["source"]) for entry in by_name[name]]
        if name == "lora":
            assert shown == claims
            assert actual[name] == " ".join(value for value, _ in claims)
            continue
        assert shown == [claims[-1]], name
        lost = [(names.get(one["value"], one["value"]), one["source"]) for one in by_name[name][0]["overrode"]]
        assert lost == claims[-2::-1], name
        if shown[0][0] not in {"the engine's own", "unlimited"} and name not in NO_FLAGS:
            assert actual.pop(name) == shown[0][0]
    assert actual.keys() <= {"lora"}


def check_bundled(found: dict[str, Any], actual: list[str], names: dict[str, str]) -> None:
    """The server that comes with dmr takes these arguments for what explain says they are."""
    # The files of a bundle that nobody made; which files they are was compared before.
    words = [__file__ if word in names else word for word in actual[3:]]
    taken = parse_for_bundled(words).values
    said = {entry["name"]: entry["value"] for entry in found["settings"]}
    size = said["context-size"]
    assert taken.get("n_ctx", 0) == (0 if size in {"-1", "the engine's own"} else int(size))
    if "llamacpp.reasoning-budget" in said:
        assert taken["sampling.reasoning_budget_tokens"] == int(said["llamacpp.reasoning-budget"])
    if "--gpu-layers" in said:
        assert taken["n_gpu_layers"] == int(said["--gpu-layers"])
    if "--temp" in said:
        assert taken["sampling.temp"] == pytest.approx(float(said["--temp"]))
    assert taken["use_jinja"] is (said["--jinja"] == "true")
    assert taken["cache_ram_mib"] == int(said["--cache-ram"])
