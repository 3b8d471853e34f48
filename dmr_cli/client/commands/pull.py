"""``dmr pull``: download a model."""

from __future__ import annotations

import click

from dmr_cli.client import render, transfer
from dmr_cli.client.api import Invocation
from dmr_cli.client.examples import examples
from dmr_cli.client.progress import reporter_for

__all__ = ["pull"]


@click.command(
    epilog=examples(
        "dmr pull smollm2",
        "dmr pull hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
        "dmr pull hf.co/Qwen/Qwen3-0.6B@main",
        "dmr pull --json smollm2 | jq .message",
    ),
)
@click.argument("model")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress, only the result.")
@click.option("--json", "as_json", is_flag=True, help="Print progress and result as lines of JSON.")
@click.pass_obj
def pull(invocation: Invocation, *, model: str, quiet: bool, as_json: bool) -> None:
    """Download MODEL into the store.

    MODEL is a name ([REGISTRY/]NAME[:TAG]; a bare name means docker.io/ai/NAME:latest) or a model of
    Hugging Face (hf.co/ORG/REPO[:QUANTIZATION][@REVISION]), for which $HF_TOKEN is sent along. A
    quantization that is not there is an error that lists those there are. A NIM of NVIDIA
    (nvcr.io/nim/NAME[:TAG]) is pulled by the Docker Engine of the service, for which your login to
    that registry, or $NGC_API_KEY, is sent along.
    """
    api = invocation.api()
    with reporter_for(quiet=quiet, as_json=as_json) as reporter:
        message = transfer.pull(api, model, reporter)
    if not as_json:
        render.echo(message)
