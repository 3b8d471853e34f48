"""The stock ``docker model`` CLI as its service knows it: same requests, same demands on the answers.

``python -m tests.stand_ins.stock_cli COMMAND …`` with ``MODEL_RUNNER_HOST``; ``DEFAULT_REGISTRY`` is read here as
well, and ``STOCK_CLI_RETRY_SCALE`` shortens the pauses between tries. Results go to stdout, as in plugin mode.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tests.stand_ins.stock_admin import AdministrationCommands
from tests.stand_ins.stock_options import COMMANDS, parser
from tests.stand_ins.stock_package import Archive, archive, from_gguf, with_context_size
from tests.stand_ins.stock_reference import InvalidTagError, display, parse_target
from tests.stand_ins.stock_wire import NOT_RUNNING, StatusError, StockError, Wire, progress

__all__ = ["main"]

_HEADINGS: Final = (
    *("MODEL NAME", "PARAMETERS", "QUANTIZATION", "ARCHITECTURE"),
    *("MODEL ID", "CREATED", "CONTEXT", "SIZE"),
)
_SHORTEST_ID: Final = 19
_HUGGING_FACE: Final = ("hf.co/", "huggingface.co/")


def main(argv: Sequence[str] | None = None, environ: dict[str, str] | None = None) -> int:
    """Run one command line; 0 or 1, as that CLI has no other exit codes."""
    try:
        options = parser().parse_args(argv)
        cli = StockCli(dict(os.environ) if environ is None else environ)
        commands: dict[str, Callable[[argparse.Namespace], None]] = {
            name: getattr(cli, name.replace("-", "_")) for name in COMMANDS
        }
        commands[{"list": "ls", "stop": "unload"}.get(options.command, options.command)](options)
    except (StockError, InvalidTagError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except SystemExit as done:
        return 1 if done.code else 0
    return 0


class StockCli(AdministrationCommands):
    """One method for each command."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._wire = Wire(environ)
        self._environ = environ
        self._registry = environ.get("DEFAULT_REGISTRY", "")

    def pull(self, options: argparse.Namespace) -> None:
        """``pull MODEL``."""
        self._pull(options.model)

    def push(self, options: argparse.Namespace) -> None:
        """``push MODEL``."""
        path = f"models/{options.model}/push"
        print(self._prefixed("Failed to push model", lambda: self._transfer(path, self._token(options.model), "push")))

    def ls(self, options: argparse.Namespace) -> None:
        """``ls [-q|--json|--openai]``."""
        if options.openai:
            print(json.dumps(self._openai("engines/v1/models", "list"), indent=4, ensure_ascii=False))
            return
        models = self._prefixed("Failed to list models", lambda: self._wire.json("GET", "models"))
        if not isinstance(models, list):
            raise StockError("Failed to list models: not an array")
        for model in models:
            _check_model(model)
        if options.json:
            print(json.dumps(models, indent=4, ensure_ascii=False))
        elif options.quiet:
            for model in models:
                print(model["id"][7:19])
        else:
            self._table(models)

    def inspect(self, options: argparse.Namespace) -> None:
        """``inspect MODEL [-r|--openai]``."""
        if options.openai:
            print(json.dumps(self._openai(f"engines/v1/models/{options.model}", "model"), indent=4, ensure_ascii=False))
            return
        print(json.dumps(self._inspected(options), indent=4, ensure_ascii=False))

    def show(self, options: argparse.Namespace) -> None:
        """``show MODEL [-r]``."""
        model = self._inspected(options)
        print(f"{'Model:':<13}{model['id']}")
        if model.get("tags"):
            print(f"{'Tags:':<13}{', '.join(model['tags'])}")
        for name in ("format", "architecture", "parameters", "size", "quantization", "context_size"):
            if model["config"].get(name):
                print(f"{name}: {model['config'][name]}")

    def rm(self, options: argparse.Namespace) -> None:
        """``rm MODEL… [-f]``."""
        for model in options.models:
            try:
                steps = self._wire.json(
                    "DELETE", f"models/{model}", query=f"force={str(options.force).lower()}", what=f"removing {model}"
                )
            except StatusError as error:
                reason = f"no such model: {model}" if error.status == 404 else str(error)
                raise StockError(f"Failed to remove model: {reason}") from error
            for step in steps:
                ((verb, what),) = step.items()
                if verb not in ("Untagged", "Deleted"):
                    raise StockError(f"unknown step {verb!r}")
                print(f"{verb}: {what}")

    def tag(self, options: argparse.Namespace) -> None:
        """``tag SOURCE TARGET``."""
        self._tag(options.source, options.target)
        print(f'Model "{options.source}" tagged successfully with "{options.target}"')

    def package(self, options: argparse.Namespace) -> None:
        """``package MODEL --gguf PATH | --from MODEL``."""
        if (options.gguf is None) == (options.source is None):
            raise StockError("One of --gguf, --safetensors-dir, --dduf, or --from is required.")
        parse_target(options.model, self._registry)
        if options.source is not None:
            self._package_from(options)
            return
        path = Path(options.gguf)
        if not path.is_absolute():
            raise StockError("GGUF path must be absolute.")
        if options.format == "cncf" and options.context_size is not None:
            raise StockError("--context-size is not supported with --format cncf")
        model = from_gguf(
            path, licenses=[Path(p) for p in options.license], context_size=options.context_size, schema=options.format
        )
        self._load(model, options.model)

    def ps(self, _options: argparse.Namespace) -> None:
        """``ps``."""
        for runner in self._wire.json("GET", "engines/ps"):
            missing = {"backend_name", "model_name", "mode", "last_used"} - set(runner)
            if missing:
                raise StockError(f"a runner without {sorted(missing)}")
            print(f"{display(runner['model_name'], self._registry)}  {runner['backend_name']}  {runner['mode']}")

    def df(self, _options: argparse.Namespace) -> None:
        """``df``."""
        usage = self._wire.json("GET", "engines/df")
        print(
            f"Models  {int(usage['models_disk_usage'])}\nInference engine  {int(usage['default_backend_disk_usage'])}"
        )

    def unload(self, options: argparse.Namespace) -> None:
        """``unload MODEL… | --all``."""
        if options.all == bool(options.models):
            raise StockError("'docker model unload' requires MODEL unless --all is specified.")
        count = self._unload(everything=options.all, models=options.models, backend=options.backend)
        nothing = "No models are running." if options.all else "No such model(s) running."
        print(f"Unloaded {count} model(s)." if count else nothing)

    def purge(self, options: argparse.Namespace) -> None:
        """``purge -f``."""
        if not options.force:
            raise StockError("Operation cancelled.")
        self._unload(everything=True, models=[], backend="")
        content = self._wire.ask("DELETE", "models/purge", what="purging")
        if content:
            raise StockError(f"purge answers nothing, but here it said {content!r}")

    def status(self, _options: argparse.Namespace) -> None:
        """``status``."""
        self._wire.json("GET", "models")
        backends = self._wire.json("GET", "engines/status")
        if not all(isinstance(text, str) for text in backends.values()):
            raise StockError("a status that is no string")
        print("Docker Model Runner is running\n")
        for name, text in backends.items():
            print(f"{name}  {text}")

    def version(self, _options: argparse.Namespace) -> None:
        """``version``."""
        print(f"Server:\n Version:    {self._wire.json('GET', 'version')['version']}")

    def run(self, options: argparse.Namespace) -> None:
        """``run MODEL [-d] PROMPT…``: pulls what is not there."""
        try:
            self._wire.ask("GET", f"models/{options.model}", what="inspecting")
        except StatusError as error:
            if error.status != 404:
                raise
            print(f"Unable to find model '{options.model}' locally. Pulling from the server.")
            self._pull(options.model)
        if options.detach:
            self._chat(options.model, [], stream=False, headers={"X-Preload-Only": "true"})
        else:
            message = {"role": "user", "content": " ".join(options.prompt)}
            print(self._chat(options.model, [message], stream=True))

    # --- steps

    def _pull(self, model: str) -> None:
        body = {"from": model} | self._token(model)
        print(self._prefixed("Failed to pull model", lambda: self._transfer("models/create", body, "download")))

    def _transfer(self, path: str, body: dict[str, str], verb: str) -> str:
        return self._wire.transfer(path, body or None, verb, lambda text: print(text, file=sys.stderr))

    def _token(self, model: str) -> dict[str, str]:
        token = self._environ.get("HF_TOKEN", "")
        return {"bearer-token": token} if token and model.lower().startswith(_HUGGING_FACE) else {}

    def _prefixed(self, prefix: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except StockError as error:
            raise StockError(NOT_RUNNING if str(error) == NOT_RUNNING else f"{prefix}: {error}") from error

    def _openai(self, path: str, kind: str) -> dict[str, Any]:
        found = self._wire.json("GET", path, what="listing")
        for model in found["data"] if kind == "list" else [found]:
            if model.get("object") != "model" or type(model.get("created")) is not int or not model.get("id"):
                raise StockError(f"no model of OpenAI's: {model!r}")
        return dict(found)

    def _inspected(self, options: argparse.Namespace) -> dict[str, Any]:
        query = "remote=true" if options.remote else ""
        try:
            model = self._wire.json("GET", f"models/{options.model}", query=query, what="inspecting")
        except StatusError as error:
            reason = f"{options.model}: model not found" if error.status == 404 else str(error)
            raise StockError(f"Failed to get model {options.model}: {reason}") from error
        _check_model(model)
        return dict(model)

    def _tag(self, source: str, target: str) -> None:
        repository, tag = parse_target(target, self._registry)
        query = f"repo={repository}&tag={tag}"
        try:
            self._wire.ask("POST", f"models/{source}/tag", query=query, expect=(201,), what="tagging")
        except StatusError as error:
            raise StockError(f"failed to tag model: {error}") from error

    def _load(self, model: Archive, name: str) -> None:
        content = self._wire.ask(
            "POST",
            "models/load",
            body=archive(model),
            headers={"Content-Type": "application/x-tar"},
            expect=(200, 201),
            what="loading",
        )
        progress(content.splitlines(), lambda _text: None)
        self._tag(model.id, name)
        print("Model loaded successfully")

    def _package_from(self, options: argparse.Namespace) -> None:
        if options.context_size is not None and options.format == "docker" and not options.license:
            body = json.dumps({"target": options.model, "context_size": options.context_size}).encode()
            path = f"models/{options.source}/repackage"
            self._wire.ask("POST", path, body=body, expect=(200, 201), what="repackaging")
            print("Model variant created successfully")
            return
        exported = self._wire.ask("GET", f"models/{options.source}/export", what="exporting")
        self._load(with_context_size(exported, options.context_size), options.model)

    def _unload(self, *, everything: bool, models: list[str], backend: str) -> int:
        body = json.dumps({"all": everything, "backend": backend, "models": models}).encode()
        return int(self._wire.json("POST", "engines/unload", body=body)["unloaded_runners"])

    def _chat(
        self, model: str, messages: list[dict[str, str]], *, stream: bool, headers: dict[str, str] | None = None
    ) -> str:
        body = json.dumps({"model": model, "messages": messages, "stream": stream}).encode()
        text = self._wire.ask("POST", "engines/v1/chat/completions", body=body, headers=headers, what="chat").decode()
        if not stream:
            return ""
        events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        if not events or events[-1] != "[DONE]":
            raise StockError("error reading response stream: unexpected EOF")
        choices = [choice for event in events[:-1] for choice in json.loads(event).get("choices", [])]
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    def _table(self, models: list[dict[str, Any]]) -> None:
        headings = list(_HEADINGS)
        rows = [headings]
        for model in models:
            config = model["config"]
            context = config.get("context_size") or (config.get("gguf") or {}).get("llama.context_length", "")
            facts = [config.get(name, "") for name in ("parameters", "quantization", "architecture")]
            for tag in model.get("tags") or ["<none>"]:
                shown = [model["id"][7:19], str(model["created"]), str(context), config.get("size", "")]
                rows.append([display(tag, self._registry), *facts, *shown])
        widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(headings))]
        for row in rows:
            print("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def _check_model(model: Any) -> None:
    """What the CLI's code relies on without looking."""
    if not isinstance(model, dict) or not isinstance(model.get("config"), dict):
        raise StockError("a model is an object, and its config another")
    if not isinstance(model.get("id"), str) or len(model["id"]) < _SHORTEST_ID or not model["id"].startswith("sha256:"):
        raise StockError(f"a model's id is sha256:…, not {model.get('id')!r}")
    if type(model.get("created")) is not int or not isinstance(model.get("tags", []), list):
        raise StockError("created is a number of seconds, and tags are a list")


if __name__ == "__main__":
    sys.exit(main())
