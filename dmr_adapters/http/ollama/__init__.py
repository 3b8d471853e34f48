"""Ollama's API, ``/api/*``, as ollama/ollama documents it (``docs/api.md``), in front of the same engines and the same store.

What is about words is pure and in modules of its own: requests (:mod:`.request`), their translation (:mod:`.options`,
:mod:`.messages`, :mod:`.translation`) and that of answers (:mod:`.pieces`, :mod:`.lines`).
"""
