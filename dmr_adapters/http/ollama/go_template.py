"""Prompts made by templates in Go's language, as Ollama's models have them (Ollama, ``docs/template.md``). Pure.

A template sees ``System``, ``Prompt``, ``Response``, ``Suffix`` and ``Messages`` (``Role``, ``Content``). It is a stranger's: its
steps and its output are bounded.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dmr_adapters.http.ollama.go_functions import FUNCTIONS
from dmr_adapters.http.ollama.go_syntax import Assign, If, Node, Print, Range, Text, parse_template, wrong

__all__ = ["render_chat", "render_prompt"]

_MAX_STEPS: Final = 100_000
_CHEAP: Final = 100  # characters that a function makes at the cost of a step
_MAX_OUTPUT: Final = 16 * 1024 * 1024


def render_prompt(template: str, *, system: str = "", prompt: str = "", suffix: str = "") -> str:
    """The prompt that ``template`` makes. What follows the place of the response is not part of it.

    Raises:
        InvalidRequestError: the template is wrong, or uses what is not supported; says where.
    """
    messages = [("system", system)] if system else []
    return render_chat(template, [*messages, ("user", prompt)], suffix=suffix)


def render_chat(template: str, messages: Sequence[tuple[str, str]], *, suffix: str = "") -> str:
    """The prompt that ``template`` makes of a chat: roles, and what they said.

    A template that does not look at ``Messages`` is used once for each turn, as Ollama does.

    Raises:
        InvalidRequestError: as for :func:`render_prompt`.
    """
    nodes = parse_template(template)
    listed = [{"Role": role, "Content": content} for role, content in messages]
    system = "\n\n".join(content for role, content in messages if role == "system")
    common = {"Suffix": suffix, "Tools": [], "Messages": listed}
    if ".Messages" in template:
        prompt = next((content for role, content in reversed(messages) if role == "user"), "")
        return _Run({**common, "System": system, "Prompt": prompt, "Response": ""}).render(nodes)
    turn = {"System": "", "Prompt": "", "Response": ""}
    said = []
    for role, content in messages:
        field = {"system": "System", "assistant": "Response"}.get(role, "Prompt")
        if turn[field] or (field == "System" and turn["Prompt"]):
            said.append(_Run({**common, **turn}, whole=True).render(nodes))
            turn = {"System": "", "Prompt": "", "Response": ""}
        turn[field] = content
        if field == "Response":
            said.append(_Run({**common, **turn}, whole=True).render(nodes))
            turn = {"System": "", "Prompt": "", "Response": ""}
    return "".join([*said, _Run({**common, **turn}).render(nodes)])


class _EndOfPromptError(Exception):
    """The place of the response is reached."""


class _Run:
    """One rendering; a ``whole`` one goes on behind the place of the response, which has been given."""

    def __init__(self, data: Mapping[str, Any], *, whole: bool = False) -> None:
        self._whole = whole
        self._out: list[str] = []
        self._size = 0
        self._steps = 0
        self._variables: dict[str, Any] = {"$": data}
        self._data = data

    def render(self, nodes: Sequence[Node]) -> str:
        with contextlib.suppress(_EndOfPromptError):
            self._nodes(nodes, self._data)
        return "".join(self._out)

    def _nodes(self, nodes: Sequence[Node], dot: Any) -> None:
        for node in nodes:
            self._count(1)
            match node:
                case Text(value):
                    self._print(value)
                case Print(expression):
                    if expression == ("path", ("dot",), ("Response",)) and dot is self._data and not self._whole:
                        raise _EndOfPromptError
                    self._print(_printed(self._value(expression, dot)))
                case Assign(name, expression):
                    self._variables[name] = self._value(expression, dot)
                case If(expression, body, otherwise, rebinds):
                    value = self._value(expression, dot)
                    self._nodes(body if value else otherwise, value if rebinds and value else dot)
                case Range():
                    self._range(node, dot)

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise wrong(f"it takes more than {_MAX_STEPS} steps")

    def _range(self, node: Range, dot: Any) -> None:
        values = self._value(node.expression, dot)
        if not isinstance(values, list) or not values:
            self._nodes(node.otherwise, dot)
            return
        for number, value in enumerate(values):
            for name, bound in zip(
                node.names[-2:], (number, value) if len(node.names) == 2 else (value,), strict=False
            ):
                self._variables[name] = bound
            self._nodes(node.body, value)

    def _print(self, text: str) -> None:
        self._size += len(text)
        if self._size > _MAX_OUTPUT:
            raise wrong(f"it makes more than {_MAX_OUTPUT} characters")
        self._out.append(text)

    def _value(self, expression: Any, dot: Any) -> Any:
        match expression:
            case ("value", value):
                return value
            case ("dot",):
                return dot
            case ("variable", name):
                return self._variables.get(name)
            case ("path", base, path):
                value = self._value(base, dot)
                for name in path:
                    value = value.get(name) if isinstance(value, Mapping) else None
                return value
            case ("call", [("function", name), *operands]):
                return self._called(name, operands, dot)
        raise wrong("this is not a call of a function")

    def _called(self, name: str, operands: list[Any], dot: Any) -> Any:
        if name in ("and", "or"):
            value: Any = None
            for operand in operands:
                value = self._value(operand, dot)
                if bool(value) is (name == "or"):
                    break
            return value
        try:
            made = FUNCTIONS[name](*(self._value(operand, dot) for operand in operands))
        except TypeError as exc:
            raise wrong(f"{name} has the wrong operands") from exc
        self._count(len(made) // _CHEAP if isinstance(made, str | list) else 0)
        return made


def _printed(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
