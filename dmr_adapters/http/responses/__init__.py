"""OpenAI's Responses API, translated to chat completions for every engine alike (docs/adr/0013).

A request becomes a chat completion (``request``, ``items``, ``conversation``, ``chat``), which is asked of the inference
path as if a client had asked (``call``); its chunks become events and an answer (``upstream``, ``assembly``, ``document``).
"""
