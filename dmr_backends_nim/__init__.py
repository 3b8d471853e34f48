"""NVIDIA NIM containers as an engine of dmr."""

__version__ = "0.1.0"
