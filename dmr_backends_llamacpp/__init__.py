"""The llama.cpp engine of dmr."""

__version__ = "0.1.0"
