"""Go's template language (Go, ``text/template``), as far as prompts need it: from text to a tree. Pure.

What else Go has is refused with its name. A template is a stranger's: its length and its depth are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import attrs

from dmr_adapters.http.ollama.go_functions import FUNCTIONS
from dmr_core.errors import InvalidRequestError

__all__ = ["Assign", "If", "Node", "Print", "Range", "Text", "is_jinja", "parse_template", "wrong"]

_COMMENT: Final = re.compile(r"(?:- )?\s*/\*")
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<number>-?\d+)|(?P<name>\$?[A-Za-z_]\w*|\$)|(?P<field>(?:\.[A-Za-z_]\w*)+|\.)|(?P<mark>:=|=|[(),|]))"""
)
_MAX_TEMPLATE: Final = 256 * 1024
_MAX_DEPTH: Final = 32


def is_jinja(template: str) -> bool:
    """Whether a template is Jinja's, as engines read them, and not Go's."""
    return "{%" in template or re.search(r"\{\{[-~]?\s*(?:messages|bos_token|message)\b", template) is not None


def parse_template(template: str) -> Sequence[Node]:
    """What a template consists of.

    Raises:
        InvalidRequestError: it is wrong, or too much.
    """
    if len(template) > _MAX_TEMPLATE:
        raise wrong(f"longer than {_MAX_TEMPLATE} characters")
    if is_jinja(template):
        raise wrong("this is a Jinja template, which belongs to a model (/api/create); here it is Go's that is meant")
    return _Parser(template).parse()


@attrs.frozen
class Text:
    """Text as it stands."""

    value: str


@attrs.frozen
class Print:
    """An expression whose value is printed."""

    expression: Any


@attrs.frozen
class Assign:
    """A variable is given a value."""

    name: str
    expression: Any


@attrs.frozen
class If:
    """``if`` and ``with``: the first branch whose condition holds. ``rebinds`` makes the value the dot."""

    expression: Any
    body: tuple[Any, ...]
    otherwise: tuple[Any, ...]
    rebinds: bool = False


@attrs.frozen
class Range:
    """The body for every element; ``otherwise`` where there is none."""

    names: tuple[str, ...]
    expression: Any
    body: tuple[Any, ...]
    otherwise: tuple[Any, ...]


Node = Text | Print | Assign | If | Range


def wrong(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"invalid template: {reason}", param="template")


class _Parser:
    """Cuts a template into texts and actions, and puts them into a tree."""

    def __init__(self, template: str) -> None:
        self._parts: list[tuple[bool, str]] = []
        self._at = 0
        position, trim = 0, False
        while (begin := template.find("{{", position)) >= 0:
            inner, end = _action_at(template, begin)
            before = template[position:begin]
            before = before.lstrip() if trim else before
            left, trim = inner.startswith("- "), inner.endswith(" -")
            self._parts.append((False, before.rstrip() if left else before))
            self._parts.append((True, inner.removeprefix("- ").removesuffix(" -").strip()))
            position = end
        rest = template[position:]
        self._parts.append((False, rest.lstrip() if trim else rest))

    def parse(self) -> tuple[Node, ...]:
        nodes, end = self._nodes(0)
        if end:
            raise wrong(f"{{{{ {end} }}}} closes nothing")
        return nodes

    def _nodes(self, depth: int) -> tuple[tuple[Node, ...], str]:
        """Nodes up to ``end`` or ``else``, and that action."""
        if depth > _MAX_DEPTH:
            raise wrong(f"nested deeper than {_MAX_DEPTH}")
        found: list[Node] = []
        while self._at < len(self._parts):
            is_action, text = self._parts[self._at]
            self._at += 1
            if not is_action:
                if text:
                    found.append(Text(text))
                continue
            word = text.split(None, 1)[0] if text.split() else ""
            if word in ("end", "else"):
                return tuple(found), text
            if text.startswith("/*"):
                continue
            found.append(self._action(word, text, depth))
        return tuple(found), ""

    def _action(self, word: str, text: str, depth: int) -> Node:
        rest = text[len(word) :]
        if word in ("if", "with"):
            return self._branch(rest, depth, rebinds=word == "with")
        if word == "range":
            names, expression = _range_head(rest)
            body, otherwise = self._bodies(depth)
            return Range(names, expression, body, otherwise)
        if word in ("define", "template", "block", "break", "continue"):
            raise wrong(f"{{{{ {word} }}}} is not supported")
        assigned = re.fullmatch(r"(\$\w*)\s*:?=\s*(.*)", text, re.DOTALL)
        if assigned is not None:
            return Assign(assigned[1], _Expression(assigned[2]).parse())
        return Print(_Expression(text).parse())

    def _branch(self, condition: str, depth: int, *, rebinds: bool = False) -> If:
        expression = _Expression(condition).parse()
        body, end = self._nodes(depth + 1)
        words = end.split(None, 1)
        if words == ["end"]:
            return If(expression, body, (), rebinds)
        if words[:1] == ["else"] and len(words) == 1:
            otherwise, end = self._nodes(depth + 1)
            self._expect_end(end)
            return If(expression, body, otherwise, rebinds)
        chained = re.fullmatch(r"else\s+if\b(.*)", end, re.DOTALL)
        if chained is None:
            raise wrong(f"an if has no end, but {end[:40]!r}")
        return If(expression, body, (self._branch(chained[1], depth + 1),), rebinds)

    def _bodies(self, depth: int) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
        body, end = self._nodes(depth + 1)
        if end.split() == ["else"]:
            otherwise, end = self._nodes(depth + 1)
        else:
            otherwise = ()
        self._expect_end(end)
        return body, otherwise

    def _expect_end(self, end: str) -> None:
        if end.split() != ["end"]:
            raise wrong(f"expected {{{{ end }}}}, found {end[:40]!r}")


def _action_at(template: str, begin: int) -> tuple[str, int]:
    """What is between the braces that open at ``begin``, and where they end. Texts in it may hold braces; looked at once."""
    at = begin + 2
    comment = _COMMENT.match(template, at)
    if comment is not None:
        closed = template.find("*/", comment.end())
        at = len(template) if closed < 0 else closed + 2
    while at < len(template):
        character = template[at]
        if character in '"`':
            at += 1
            while at < len(template) and template[at] != character:
                at += 2 if character == '"' and template[at] == "\\" else 1
            at += 1
        elif template.startswith("}}", at):
            return template[begin + 2 : at], at + 2
        else:
            at += 1
    raise wrong(f"an action is not closed: {template[begin : begin + 40]!r}")


def _range_head(text: str) -> tuple[tuple[str, ...], Any]:
    named = re.fullmatch(r"\s*(\$\w+)\s*(?:,\s*(\$\w+)\s*)?:=(.*)", text, re.DOTALL)
    if named is None:
        return (), _Expression(text).parse()
    return tuple(name for name in (named[1], named[2]) if name), _Expression(named[3]).parse()


class _Expression:
    """Tokens of an action, as a call: a list of operands of which the first may be a function."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        position = 0
        text = text.strip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise wrong(f"cannot read {text[position:][:40]!r}")
            kind = str(match.lastgroup)
            self._tokens.append((kind, match[kind]))
            position = match.end()
        self._at = 0

    def parse(self) -> Any:
        made = self._call(0)
        if self._at != len(self._tokens):
            raise wrong(f"cannot read {self._tokens[self._at][1]!r}")
        return made

    def _call(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise wrong(f"nested deeper than {_MAX_DEPTH}")
        operands: list[Any] = []
        while self._at < len(self._tokens) and self._tokens[self._at] != ("mark", ")"):
            kind, text = self._tokens[self._at]
            self._at += 1
            if (kind, text) == ("mark", "("):
                operands.append(self._call(depth + 1))
                if self._at >= len(self._tokens):
                    raise wrong("a parenthesis is not closed")
                self._at += 1
                if self._at < len(self._tokens) and self._tokens[self._at][0] == "field":
                    operands[-1] = ("path", operands[-1], self._field())
            elif (kind, text) == ("mark", "|"):
                raise wrong("pipelines are not supported")
            elif kind == "mark":
                raise wrong(f"cannot read {text!r}")
            else:
                operands.append(self._operand(kind, text))
        if not operands:
            raise wrong("an action is empty")
        return operands[0] if len(operands) == 1 and not _is_function(operands[0]) else ("call", operands)

    def _operand(self, kind: str, text: str) -> Any:
        if kind == "text":
            return ("value", text[1:-1] if text.startswith("`") else _unquoted(text))
        if kind == "number":
            return ("value", int(text[:18]))
        if kind == "field":
            return ("path", ("dot",), tuple(text.split(".")[1:]) if text != "." else ())
        if text.startswith("$"):
            path = self._field() if self._at < len(self._tokens) and self._tokens[self._at][0] == "field" else ()
            return ("path", ("variable", text), path)
        if text in ("true", "false", "nil"):
            return ("value", {"true": True, "false": False, "nil": None}[text])
        if text not in FUNCTIONS and text not in ("and", "or"):
            raise wrong(f"the function {text[:40]!r} is not supported")
        return ("function", text)

    def _field(self) -> tuple[str, ...]:
        text = self._tokens[self._at][1]
        self._at += 1
        return tuple(text.split(".")[1:])


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text, strict=False))
    except ValueError as exc:
        raise wrong(f"cannot read {text[:40]}") from exc


def _is_function(operand: Any) -> bool:
    return isinstance(operand, tuple) and operand[0] == "function"
