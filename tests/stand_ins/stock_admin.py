"""What the stock ``docker model`` CLI asks of a service beside its models: settings, records, logs, engines."""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from tests.stand_ins.stock_wire import StatusError, StockError, Wire

__all__ = ["AdministrationCommands"]

_LONGEST_LINE: Final = 64 * 1024
_CONFIGURED: Final = {"Backend", "Model", "ModelID", "Mode", "Config"}


class AdministrationCommands:
    """One method for each command."""

    _wire: Wire

    def configure(self, options: argparse.Namespace) -> None:
        """``configure [show] …``."""
        if options.action == "show":
            self._show(options.model)
            return
        body: dict[str, Any] = {
            "model": options.model,
            "raw-runtime-flags": options.flags,
            "context-size": options.context_size,
            "keep_alive": options.keep_alive,
            "mode": options.mode or None,
        }
        self._configure({name: value for name, value in body.items() if value is not None}, options.backend)

    def compose(self, options: argparse.Namespace) -> None:
        """``compose up --model MODEL…``: what Compose's model provider does."""
        stored = {tag for model in self._wire.json("GET", "models") for tag in model.get("tags", [])}
        for model in options.model:
            if model not in stored:
                raise StockError(f"{model} is not in {sorted(stored)}")
            self._configure({"model": model, "context-size": options.context_size, "raw-runtime-flags": ""}, "")
            print(json.dumps({"type": "info", "message": f"Successfully configured backend for model {model}"}))

    def bench(self, options: argparse.Namespace) -> None:
        """``bench MODEL``: one request of each round."""
        body = {"model": options.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
        path = "engines/v1/chat/completions"
        answer = self._wire.json("POST", path, body=json.dumps({**body, "stream": False}).encode(), what="benchmarking")
        tokens = answer["usage"]["completion_tokens"]
        if type(tokens) is not int or tokens < 1:
            raise StockError(f"no tokens to count: {tokens!r}")
        print(f"tokens {tokens}")

    def requests(self, options: argparse.Namespace) -> None:
        """``requests [--model MODEL] [--follow]``."""
        query = f"model={options.model}" if options.model else ""
        if options.follow:
            self._follow(query)
            return
        for entry in self._wire.json("GET", "engines/requests", query=query, what="fetching requests"):
            _check_entry(entry)
            print(json.dumps(entry))

    def logs(self, _options: argparse.Namespace) -> None:
        """``logs``, of a service that is no container."""
        print(self._wire.ask("GET", "logs", query="follow=false&no-engines=false", what="logs").decode(), end="")

    def install_runner(self, options: argparse.Namespace) -> None:
        """``install-runner --backend NAME``."""
        self._nothing("engines/install-backend", options.backend)

    def uninstall_runner(self, options: argparse.Namespace) -> None:
        """``uninstall-runner --backend NAME``."""
        self._nothing("engines/uninstall-backend", options.backend)

    def _nothing(self, path: str, backend: str) -> None:
        body = json.dumps({"backend": backend}).encode()
        if content := self._wire.ask("POST", path, body=body, what=path):
            raise StockError(f"an answer where none is expected: {content!r}")

    def _configure(self, body: dict[str, Any], backend: str) -> None:
        path = f"engines/{backend}/_configure" if backend else "engines/_configure"
        try:
            self._wire.ask("POST", path, body=json.dumps(body).encode(), expect=(202,), what="configuring")
        except StatusError as error:
            raise StockError(error.body if error.status == 409 else f"{error.body} ({error.status})") from error

    def _show(self, model: str | None) -> None:
        query = f"model={model}" if model else ""
        entries = self._wire.json("GET", "engines/_configure", query=query, what="showing settings")
        for entry in entries:
            if set(entry) != _CONFIGURED or not isinstance(entry["Config"], dict):
                raise StockError(f"settings are {sorted(_CONFIGURED)}, not {sorted(entry)}")
        print(json.dumps(entries))

    def _follow(self, query: str) -> None:
        """Until it is connected: what there is comes first."""
        query = "&".join(filter(None, (query, "include_existing=true")))
        headers = {"Accept": "text/event-stream"}
        connection, answer = self._wire.open("GET", "engines/requests", query=query, headers=headers)
        try:
            if answer.status != 200 or answer.headers["Content-Type"] != "text/event-stream":
                raise StockError(f"no stream: {answer.status} {answer.headers['Content-Type']}")
            name = ""
            while name != "connected":
                line = answer.readline(_LONGEST_LINE + 1)
                if not line or len(line) > _LONGEST_LINE:
                    raise StockError("bufio.Scanner: token too long" if line else "unexpected EOF")
                if line.startswith(b"event: "):
                    name = line[7:].strip().decode()
                elif line.startswith(b"data: ") and name in ("existing_request", "new_request"):
                    for entry in json.loads(line[6:]):
                        _check_entry(entry)
                        print(json.dumps(entry))
        finally:
            connection.close()


def _check_entry(entry: Any) -> None:
    """What the CLI's code relies on without looking."""
    if not isinstance(entry, dict) or type(entry.get("count")) is not int or not isinstance(entry.get("model"), str):
        raise StockError("an entry has a model and a count")
    for record in entry.get("records") or ():
        if type(record.get("timestamp")) is not int or type(record.get("status_code")) is not int:
            raise StockError("a record has a time in seconds and a status")
        if not isinstance(record.get("request"), str):
            raise StockError("a request is kept as text")
