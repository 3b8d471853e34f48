"""``dmr run``: ask a model, or talk to it."""

from __future__ import annotations

import sys

import click

from dmr_cli.client import chat, render, transfer
from dmr_cli.client.api import Api, Invocation, model_path
from dmr_cli.client.conversation import Conversation
from dmr_cli.client.errors import ClientError, NotFoundError
from dmr_cli.client.examples import examples
from dmr_cli.client.nim import is_nim, load_headers
from dmr_cli.client.piped import StandardInput
from dmr_cli.client.progress import reporter_for
from dmr_cli.client.terminal import write

__all__ = ["run"]

_NO_KEY = "Warning: NGC_API_KEY is not set. Most NIMs need it to download their weights when they start.\n"
_NO_GPU = "Warning: the service found no NVIDIA GPU. Most NIMs are slow without one, or refuse to start.\n"
_WAITED = "Nothing came on standard input; going on without it (--stdin waits, --no-stdin does not look)"


@click.command(
    epilog=examples(
        'dmr run smollm2 "Why is the sky blue?"',
        'dmr run smollm2 "Summarise this:" < report.txt > summary.txt',
        'dmr run --system "Answer in French." --temperature 0.2 smollm2 "Hello"',
        "dmr run smollm2                     talk; /? tells how",
        "dmr run --detach smollm2            only load it",
    ),
)
@click.argument("model")
@click.argument("prompt", nargs=-1)
@click.option("-d", "--detach", is_flag=True, help="Only load the model into memory.")
@click.option("-i", "--interactive", is_flag=True, help="Talk, reading prompts from stdin even if it is no terminal.")
@click.option("--system", metavar="TEXT", default="", help="Tell the model how to behave.")
@click.option("--temperature", metavar="NUMBER", type=click.FloatRange(min=0), help="How freely it chooses words.")
@click.option("--max-tokens", metavar="N", type=click.IntRange(min=1), help="How long an answer may get.")
@click.option("--stdin/--no-stdin", "use_stdin", default=None, help="Always, or never, add stdin to the prompt.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer of the service as JSON.")
@click.pass_obj
def run(
    invocation: Invocation,
    *,
    model: str,
    prompt: tuple[str, ...],
    detach: bool,
    interactive: bool,
    system: str,
    temperature: float | None,
    max_tokens: int | None,
    use_stdin: bool | None,
    as_json: bool,
) -> None:
    """Ask MODEL one thing, or talk to it when there is no PROMPT.

    The answer goes to stdout and everything else to stderr. What is piped in is added to the prompt,
    or is the prompt. A model that is not here is pulled first. With a NIM of NVIDIA (nvcr.io/nim/...)
    $NGC_API_KEY is sent along: the service starts its container, which may take minutes.
    """
    if detach and (prompt or interactive or as_json):
        raise click.UsageError("--detach takes no PROMPT, --interactive or --json")
    if interactive and (prompt or as_json or use_stdin):
        raise click.UsageError("--interactive takes no PROMPT, --stdin or --json")
    source = StandardInput()
    talk = interactive or (not prompt and source.is_terminal)
    if as_json and talk:
        raise click.UsageError("--json needs a PROMPT")
    api = invocation.api()
    if is_nim(model):
        _warn(api, load_headers(api.endpoint, model))
    if detach:
        _ensure_pulled(api, model)
        chat.preload(api, model)
        return
    question = "" if talk else _question(" ".join(prompt), source, use_stdin)
    _ensure_pulled(api, model)
    settings: dict[str, float] = {}
    if temperature is not None:
        settings["temperature"] = temperature
    if max_tokens is not None:
        settings["max_tokens"] = max_tokens
    conversation = Conversation(api, model, system=system, settings=settings)
    if talk:
        _talk(conversation)
    elif as_json:
        render.echo_json(conversation.complete(question))
    else:
        conversation.ask(question)


def _question(prompt: str, source: StandardInput, use_stdin: bool | None) -> str:  # noqa: FBT001 - the flag's three values
    """The prompt and what was piped in, a blank line between them."""
    piped: str | None = ""
    if use_stdin or (use_stdin is None and not prompt):
        piped = source.read()
    elif use_stdin is None and not source.is_terminal:
        piped = source.read_if_any()
        if piped is None:
            write(_WAITED + "\n", sys.stderr)
    question = "\n\n".join(part for part in (prompt, (piped or "").rstrip("\n")) if part.strip())
    if not question:
        raise click.UsageError("there is no PROMPT, and nothing on standard input")
    return question


def _ensure_pulled(api: Api, model: str) -> None:
    try:
        api.fetch("GET", model_path(model))
    except NotFoundError:
        write(f"Unable to find model '{model}' locally. Pulling from the server.\n", sys.stderr)
        with reporter_for() as reporter:
            message = transfer.pull(api, model, reporter)
        write(message + "\n", sys.stderr)


def _warn(api: Api, headers: dict[str, str]) -> None:
    """Say what a NIM will miss, before it is waited for."""
    if not headers:
        write(_NO_KEY, sys.stderr)
    try:
        found = api.fetch_object("GET", "/dmr/v1/plugins").get("detections")
    except ClientError:
        return  # whatever it is, the next request tells it
    cuda = [one for one in found if one.get("variant") == "cuda"] if isinstance(found, list) else []
    if cuda and not any(one.get("devices") for one in cuda):
        write(_NO_GPU, sys.stderr)


def _talk(conversation: Conversation) -> None:
    from dmr_cli.client.keyboard import Keyboard  # noqa: PLC0415 - only a conversation needs these
    from dmr_cli.client.repl import converse  # noqa: PLC0415 - as above

    with Keyboard() as keyboard:
        converse(conversation, keyboard)
