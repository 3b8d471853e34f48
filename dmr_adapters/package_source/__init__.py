"""Files on disk as the raw material of models: hashing them, and reading what their headers say."""
