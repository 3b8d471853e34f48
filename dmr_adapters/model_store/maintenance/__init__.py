"""Looking after the store: collecting garbage, checking, repairing, measuring, emptying."""
