"""Clients: chats, streams, cancellations and embeddings whose answers are known, judged one by one."""

from __future__ import annotations

import asyncio
import math
import time
from itertools import pairwise
from random import Random
from typing import Final

import attrs

from tests.bench.processes import Unavailable
from tests.soak.client import Answer, Client, Stream, chat_body, embedding_body
from tests.soak.ledger import Ledger, Outcome
from tests.soak.targets import REAL, TARGETS, Target, questions

__all__ = ["Traffic"]

_VISIT: Final = 6
_PAUSE: Final = 0.4
_NEARLY: Final = 1e-3
_ACTIONS: Final = {"chat": 5, "stream": 5, "leave a stream": 3, "leave a chat": 2, "embed": 2}


@attrs.define
class Traffic:
    """Everything a client does. ``answers`` and ``vectors`` are what each target said when nothing else went on.

    ``given_up`` are targets of which the service said that it tries them no more.
    """

    client: Client
    ledger: Ledger
    answers: dict[tuple[Target, str], str] = attrs.field(factory=dict)
    vectors: dict[tuple[Target, str], list[float]] = attrs.field(factory=dict)
    given_up: set[Target] = attrs.field(factory=set)

    async def learn(self) -> None:
        """Ask every target every question, one after the other, and keep the answers.

        Raises:
            Unavailable: one did not answer, so there is nothing to compare with.
        """
        for target in TARGETS:
            if target.failing:
                continue
            for question, _ in questions():
                answer = await self.client.ask(
                    "POST", target.path("chat/completions"), chat_body(target.model, question)
                )
                said = _content(answer)
                if said is None:
                    raise Unavailable(f"{target.name} does not answer: {answer.status} {answer.body.decode()}")
                self.answers[target, question] = said
            for text in target.embeds:
                answer = await self.client.ask("POST", target.path("embeddings"), embedding_body(target.model, text))
                vector = _vector(answer)
                if vector is None:
                    raise Unavailable(f"{target.name} does not embed: {answer.status} {answer.body.decode()}")
                self.vectors[target, text] = vector
        real = [
            [self.answers[target, question] for question, _ in questions()]
            for target in TARGETS
            if target.backend == REAL
        ]
        if any(first == second for column in zip(*real, strict=True) for first, second in pairwise(column)):
            raise Unavailable("two models give the same answer, so a mix-up would not be seen")

    async def visit(self, seed: str, until: float) -> None:
        """Be one client until then: some requests to one target, then some to another."""
        random = Random(seed)
        while time.monotonic() < until:
            target = random.choice(TARGETS)
            for _ in range(random.randint(1, _VISIT)):
                await self.act(random, target)
                await asyncio.sleep(random.uniform(0.0, _PAUSE))
                if time.monotonic() >= until:
                    return

    async def act(self, random: Random, target: Target, *, action: str = "") -> None:
        """One request of some kind, judged."""
        chosen = action or random.choices(list(_ACTIONS), weights=list(_ACTIONS.values()))[0]
        question = random.choice(questions())[0]
        kept = random.random() < 0.5
        after = random.randint(1, 12) if random.random() < 0.8 else 0
        patience = random.uniform(0.01, 1.5)
        if chosen == "embed" and target.embeds:
            await self._embed(target, random.choice(target.embeds), kept=kept)
        elif chosen == "leave a stream" and after:
            await self._stream(target, question, kept=kept, leave_after=after)
        elif chosen in ("leave a stream", "leave a chat"):
            await self._leave(target, question, stream=chosen == "leave a stream", patience=patience)
        elif chosen == "stream":
            await self._stream(target, question, kept=kept)
        else:
            await self._chat(target, question, kept=kept)

    async def _chat(self, target: Target, question: str, *, kept: bool) -> None:
        began = time.monotonic()
        body = chat_body(target.model, question)
        answer = await self.client.ask("POST", target.path("chat/completions"), body, kept=kept)
        problem = ""
        if answer.status == 200 and not target.failing:
            said, wanted = _content(answer), self.answers[target, question]
            if said != wanted:
                problem = f"wrong answer to {question!r}: {said!r} instead of {wanted!r}"
            elif answer.document.get("model") != target.model:
                problem = f"the answer names the model {answer.document.get('model')!r}"
        self._note("chat", target, began, answer, problem)

    async def _embed(self, target: Target, text: str, *, kept: bool) -> None:
        began = time.monotonic()
        answer = await self.client.ask("POST", target.path("embeddings"), embedding_body(target.model, text), kept=kept)
        problem = ""
        if answer.status == 200:
            vector, wanted = _vector(answer), self.vectors[target, text]
            near = vector is not None and len(vector) == len(wanted)
            if not near or not all(
                math.isclose(a, b, abs_tol=_NEARLY) for a, b in zip(vector or (), wanted, strict=True)
            ):
                problem = f"wrong embedding of {text!r}: {str(vector)[:200]} instead of {str(wanted)[:200]}"
        self._note("embed", target, began, answer, problem)

    async def _stream(self, target: Target, question: str, *, kept: bool, leave_after: int | None = None) -> None:
        began = time.monotonic()
        body = chat_body(target.model, question, stream=True)
        told = await self.client.stream(target.path("chat/completions"), body, kept=kept, leave_after=leave_after)
        action = "stream" if leave_after is None else "leave a stream"
        wanted = self.answers.get((target, question), "")
        self._judge(
            target,
            Outcome(
                action=action,
                backend=target.backend,
                model=target.model,
                began=began,
                ended=time.monotonic(),
                status=told.status,
                code=told.code,
                message=told.message,
                retry_after=told.retry_after,
                problem=_flaw(told, wanted, target.model),
                left=told.ended == "left",
                failing=target.failing,
            ),
        )

    async def _leave(self, target: Target, question: str, *, stream: bool, patience: float) -> None:
        """Ask, and hang up after a while, whatever the service is doing by then: waiting, loading, or answering."""
        if stream:
            asking = asyncio.ensure_future(self._stream(target, question, kept=False))
        else:
            asking = asyncio.ensure_future(self._chat(target, question, kept=False))
        began = time.monotonic()
        done, _ = await asyncio.wait({asking}, timeout=patience)
        if done:
            await asking
            return
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        action = "leave a stream" if stream else "leave a chat"
        self.ledger.note(
            Outcome(
                action=action,
                backend=target.backend,
                model=target.model,
                began=began,
                ended=time.monotonic(),
                left=True,
            )
        )

    def _note(self, action: str, target: Target, began: float, answer: Answer, problem: str) -> None:
        code, message = ("", "") if answer.status == 200 else answer.error
        self._judge(
            target,
            Outcome(
                action=action,
                backend=target.backend,
                model=target.model,
                began=began,
                ended=time.monotonic(),
                status=answer.status,
                code=code,
                message=message,
                retry_after=answer.retry_after,
                problem=problem or answer.failure,
                failing=target.failing,
            ),
        )

    def _judge(self, target: Target, outcome: Outcome) -> None:
        if self.ledger.note(outcome) == "503 back-off" and not target.failing:
            self.given_up.add(target)


def _flaw(told: Stream, wanted: str, model: str) -> str:
    """What is wrong with a stream, beyond an error it may end with."""
    if told.status != 200:
        return told.message if told.status == 0 else ""
    if told.models - {model}:
        return f"its events name the models {sorted(told.models)}"
    if told.ended == "done":
        return "" if told.text == wanted else f"wrong text: {told.text!r} instead of {wanted!r}"
    if told.ended not in ("error", "left"):
        return f"it ended without an end after {told.events} events: {told.message}"
    return "" if wanted.startswith(told.text) else f"wrong text: {told.text!r}, which does not begin {wanted!r}"


def _content(answer: Answer) -> str | None:
    """What a chat answered; ``None`` if it did not."""
    try:
        said = answer.document["choices"][0]["message"]["content"]
    except (TypeError, KeyError, IndexError):
        return None
    return said if answer.status == 200 and isinstance(said, str) else None


def _vector(answer: Answer) -> list[float] | None:
    """The embedding in an answer; ``None`` if there is none."""
    try:
        vector = answer.document["data"][0]["embedding"]
    except (TypeError, KeyError, IndexError):
        return None
    return vector if answer.status == 200 and isinstance(vector, list) and vector else None
