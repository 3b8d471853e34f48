"""Settings of models on disk."""
