"""The service half of dmr: settings, the composition root, and the programs that run it."""
