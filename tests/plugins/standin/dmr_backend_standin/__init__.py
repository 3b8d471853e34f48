"""Stand-in engines as backends of their own, so that they serve beside the real ones in one service."""
