"""Where the value of a setting comes from, and what it was chosen over."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import attrs

__all__ = ["Claim", "Setting", "Source", "decide"]


class Source(StrEnum):
    """Who may say something about a setting.

    Which of them wins is up to the setting: a context size that a model was packaged with, for one, wins over the
    operator's, a keep-alive of a request over everything.
    """

    DEFAULT = "default"  # nobody said anything
    ENVIRONMENT = "environment"  # whoever started the service
    ARTIFACT = "artifact"  # whoever packaged the model
    CONFIGURATION = "configuration"  # whoever configured the model
    REQUEST = "request"  # whoever asked last
    RUNNER = "runner"  # dmr itself, which cannot do without


@attrs.frozen
class Claim:
    """A value somebody wanted. ``by`` says by what means: a variable, a layer, raw flags."""

    value: str
    source: Source
    by: str = ""


@attrs.frozen
class Setting:
    """A setting as it is in force. ``overrode`` is what others wanted it to be, the strongest of them first."""

    name: str
    claim: Claim
    overrode: tuple[Claim, ...] = ()


def decide(name: str, claims: Iterable[Claim]) -> Setting:
    """The setting that comes of ``claims``, of which there is at least one; the last one wins."""
    *losers, winner = claims
    return Setting(name, winner, tuple(reversed(losers)))
