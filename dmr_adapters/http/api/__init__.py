"""Management routes: models, engines, operations."""
