"""The hot path: from a request's bytes to an engine's bytes.

The body is read once and decoded once, for the fields dmr needs alone; what goes to the engine and what comes back is
not touched. Nothing here looks at the disk, and nothing runs per chunk that depends on what the chunk says, but for
one search for an event's end.
"""
