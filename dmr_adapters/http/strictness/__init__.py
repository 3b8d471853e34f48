"""Whether a whole answer is what was demanded: structured output and tool calls against their schemas.

Only for who asked for strictness, and only where an answer is not streamed. Engines hold themselves to schemas with
grammars that know less than JSON Schema, or not at all, so the claim of an engine changes nothing about the check.
"""
