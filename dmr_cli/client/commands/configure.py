"""``dmr configure``: how a model is loaded; kept until it is changed or reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import click

from dmr_cli.client import render
from dmr_cli.client.api import Api, Invocation, expect
from dmr_cli.client.errors import InvalidInputError
from dmr_cli.client.examples import examples
from dmr_cli.client.explanation import echo_explanation
from dmr_cli.client.transport import quote

__all__ = ["configure"]

_MODES: Final = ("completion", "embedding", "reranking", "image-generation")
_FLAGS: Final = "dmr.runtime_flags"
_PATH: Final = "/engines/_configure"
# What `--unset` takes, and where it is in the JSON.
_SETTINGS: Final[dict[str, tuple[str, ...]]] = {
    "context-size": ("context-size",),
    "runtime-flags": ("runtime-flags",),
    "speculative": ("speculative",),
    "keep-alive": ("keep_alive",),
    "max-concurrency": ("max-concurrency",),
    "require": ("require",),
    "hf-overrides": ("vllm", "hf-overrides"),
    "gpu-memory-utilization": ("vllm", "gpu-memory-utilization"),
    "reasoning-budget": ("llamacpp", "reasoning-budget"),
}
_REQUIRE: Final = ("gpu", "all-layers", "none")
_THINK: Final = {"true": "--think", "t": "--think", "1": "--think", "false": "--no-think", "f": "--no-think"}
_mode: Final = click.option(
    "--mode", type=click.Choice(_MODES, case_sensitive=False), help="Settings for this use of the model."
)
_backend: Final = click.option("--backend", metavar="NAME", default="", help="Settings for this engine.")


class _Group(click.Group):
    """``configure MODEL`` is ``configure set MODEL``; a model that is called ``set`` has to be named twice."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["set", *args]
        return super().parse_args(ctx, args)


class _WithFlags(click.Command):
    """Takes what follows ``--`` apart before anything is parsed, so that MODEL is the only other argument."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            position = args.index("--")
            ctx.meta[_FLAGS] = args[position + 1 :]
            args = args[:position]
        # The stock CLI takes `--think=false`, which is click's `--no-think`.
        words = [_think(word) if word.startswith("--think=") else word for word in args]
        return super().parse_args(ctx, words)


def _think(word: str) -> str:
    value = word.partition("=")[2].lower()
    if value == "0":
        return "--no-think"
    if value not in _THINK:
        raise click.UsageError(f"invalid value {value!r} for --think: use true or false")
    return _THINK[value]


@click.group(
    cls=_Group,
    options_metavar="",
    subcommand_metavar="[set] [OPTIONS] MODEL [-- RUNTIME_FLAGS...] | show [MODEL] | reset MODEL",
    epilog=examples(
        "dmr configure --context-size 8192 --keep-alive 1h smollm2",
        "dmr configure smollm2 -- --temp 0.2 --top-k 20",
        "dmr configure --unset context-size smollm2",
        "dmr configure show --explain smollm2",
        "dmr configure reset smollm2",
    ),
)
def configure() -> None:
    """Change how a model is loaded, show it, or forget it.

    What is set stays set until it is changed, also when the service is restarted. 'dmr configure set
    --help' lists what can be set. A model in memory is loaded again if a setting needs it; one that is
    answering has to be done first.
    """


@configure.command(
    "set",
    cls=_WithFlags,
    options_metavar="[OPTIONS]",
    epilog=examples(
        "dmr configure set --context-size 8192 smollm2",
        "dmr configure set --mode embedding --max-concurrency 4 smollm2",
        "dmr configure set --require gpu smollm2",
        "dmr configure set --speculative-draft-model smollm2:135M smollm2",
        "dmr configure set smollm2 -- --temp 0.2",
    ),
)
@click.argument("models", metavar="MODEL [-- RUNTIME_FLAGS...]", nargs=-1)
@click.option(
    "--context-size", type=int, metavar="N", help="Tokens of context; -1 for what the model was trained with."
)
@click.option(
    "--keep-alive", metavar="TIME", help="How long it stays in memory unused: 5m, 1h30m, 0 for not at all, -1 for ever."
)
@click.option("--max-concurrency", type=click.IntRange(1), metavar="N", help="Most requests it answers at once.")
@click.option(
    "--require",
    type=click.Choice(_REQUIRE, case_sensitive=False),
    help="Where it must compute: at least partly on a GPU, with every layer, or anywhere. What cannot be is an error.",
)
@click.option("--speculative-draft-model", metavar="MODEL", help="A small model that guesses ahead; it must be pulled.")
@click.option("--speculative-num-tokens", type=click.IntRange(0), metavar="N", help="Most tokens to guess ahead.")
@click.option(
    "--speculative-min-acceptance-rate",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="How likely a guess must be, 0 to 1.",
)
@click.option("--think/--no-think", default=None, help="Let a reasoning model think for as long as it likes, or not.")
@click.option("--reasoning-budget", type=click.IntRange(-1), metavar="N", help="Most tokens to think; -1 for no limit.")
@click.option("--hf_overrides", "--hf-overrides", metavar="JSON", help="vLLM: what to change in the model's config.")
@click.option(
    "--gpu-memory-utilization", type=click.FloatRange(0, 1), metavar="SHARE", help="vLLM: share of the GPU's memory."
)
@click.option(
    "--unset", type=click.Choice(tuple(_SETTINGS)), multiple=True, help="Back to what it was before it was configured."
)
@_mode
@_backend
@click.pass_context
def set_settings(
    ctx: click.Context, /, *, models: tuple[str, ...], mode: str | None, backend: str, **given: Any
) -> None:
    """Change settings of MODEL; those not named stay as they are.

    RUNTIME_FLAGS are flags of the engine, and replace those set before. The model is then loaded.
    """
    if len(models) != 1:
        raise click.UsageError(
            f"Exactly one model must be specified, got {len(models)}: {' '.join(models)}".rstrip(": ")
        )
    body = {"model": models[0], **({"mode": mode} if mode else {}), **_change(given, ctx.meta.get(_FLAGS))}
    api = _api(ctx)
    with api.open("POST", _path(backend), json_body=body) as response:
        expect(response, (200, 202))


@configure.command(
    epilog=examples(
        "dmr configure show",
        "dmr configure show smollm2 | jq '.[].Config'",
        "dmr configure show --explain smollm2",
    ),
)
@click.argument("model", metavar="[MODEL]", default="")
@click.option("--explain", is_flag=True, help="Where each value comes from, and how the engine is started.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; without --explain it is JSON anyway.")
@_mode
@_backend
@click.pass_obj
def show(invocation: Invocation, *, model: str, explain: bool, as_json: bool, mode: str | None, backend: str) -> None:
    """Show what was configured for MODEL, or for every model.

    With --explain, every setting that is in force, configured or not: its value, who said so (default,
    environment, artifact, configuration, request, or runner for what dmr cannot do without), what it was chosen over,
    and the engine's arguments as they are and as they would be.
    """
    if explain and not model:
        raise click.UsageError("name a MODEL to explain")
    api = invocation.api()
    if not explain:
        found = api.fetch("GET", _PATH, query={"model": model} if model else None)
        entries = [entry for entry in found or [] if isinstance(entry, dict)]
        wanted = {"Mode": (mode or "").lower(), "Backend": backend}
        render.echo_json(
            [one for one in entries if all(not want or one.get(key) == want for key, want in wanted.items())]
        )
        return
    query = {"model": model, **({"mode": mode} if mode else {}), **({"backend": backend} if backend else {})}
    explanation = api.fetch_object("GET", "/dmr/v1/explain", query=query)
    if as_json:
        render.echo_json(explanation)
    else:
        echo_explanation(explanation)


@configure.command(
    epilog=examples(
        "dmr configure reset smollm2",
        "dmr configure reset --mode embedding smollm2",
    ),
)
@click.argument("model", metavar="MODEL")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_mode
@_backend
@click.pass_obj
def reset(invocation: Invocation, *, model: str, as_json: bool, mode: str | None, backend: str) -> None:
    """Forget what was configured for MODEL, for one use of it, or for one engine."""
    query = {"model": model, **({"mode": mode} if mode else {})}
    answer = invocation.api().fetch_object("DELETE", _path(backend), query=query)
    count = answer.get("forgotten") or 0
    if as_json:
        render.echo_json({"forgotten": count})
    else:
        render.echo(f"Settings of {model!r} are forgotten." if count else f"Nothing was configured for {model!r}.")


def _api(ctx: click.Context) -> Api:
    invocation = ctx.obj
    assert isinstance(invocation, Invocation)  # noqa: S101 - the root command made it
    return invocation.api()


def _path(backend: str) -> str:
    return f"/engines/{quote(backend)}/_configure" if backend else _PATH


def _change(given: Mapping[str, Any], flags: list[str] | None) -> dict[str, Any]:
    """The merge patch that the options say."""
    if given["think"] is not None and given["reasoning_budget"] is not None:
        raise click.UsageError("--think and --reasoning-budget say the same: use one of them")
    budget = given["reasoning_budget"] if given["think"] is None else -1 if given["think"] else 0
    overrides = given["hf_overrides"]
    values: list[tuple[tuple[str, ...], Any]] = [
        (("context-size",), given["context_size"]),
        (("keep_alive",), given["keep_alive"]),
        (("max-concurrency",), given["max_concurrency"]),
        (("require",), given["require"]),
        (("speculative", "draft_model"), given["speculative_draft_model"]),
        (("speculative", "num_tokens"), given["speculative_num_tokens"]),
        (("speculative", "min_acceptance_rate"), given["speculative_min_acceptance_rate"]),
        (("vllm", "hf-overrides"), None if overrides is None else _overrides(overrides)),
        (("vllm", "gpu-memory-utilization"), given["gpu_memory_utilization"]),
        (("llamacpp", "reasoning-budget"), budget),
        (("runtime-flags",), flags or None),
    ]
    change: dict[str, Any] = {}
    for name in given["unset"]:
        _put(change, _SETTINGS[name], None)
    for path, value in values:
        if value is not None:
            _put(change, path, value)
    return change


def _put(document: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *parents, last = path
    for parent in parents:
        inner = document.setdefault(parent, {})
        if inner is None:
            raise click.UsageError(f"--unset {parent} takes away what another option sets")
        document = inner
    if last in document:
        raise click.UsageError(f"--unset {last} takes away what another option sets")
    document[last] = value


def _overrides(text: str) -> dict[str, Any]:
    import json  # noqa: PLC0415 - one option of many needs it
    import re  # noqa: PLC0415

    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"--hf_overrides is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInputError("--hf_overrides must be a JSON object")
    name = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

    def check(inner: Any) -> None:
        if isinstance(inner, dict):
            for key, deeper in inner.items():
                if not name.fullmatch(key):
                    raise InvalidInputError(
                        f'invalid hf_overrides key "{key}": must contain only alphanumeric characters and underscores, '
                        "and start with a letter or underscore"
                    )
                check(deeper)
        elif isinstance(inner, list):
            for deeper in inner:
                check(deeper)

    check(value)
    return value
