"""Models of the Hugging Face Hub, over its HTTP API."""
