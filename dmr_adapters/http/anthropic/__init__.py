"""Anthropic's Messages API, for engines that speak it and for those that do not.

``request``, ``answer`` and ``events`` translate, and know nothing of ASGI; ``app`` decides who translates, and ``relay`` is
the way back. The forms are those of Anthropic's public API reference (Messages, Count tokens, Streaming, Errors).
"""
