"""Adapters of dmr: each folder implements the port it is named after, with one technology."""

__version__ = "0.1.0"
