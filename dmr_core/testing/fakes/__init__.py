"""Fakes of every port: small, real implementations, held to the same contracts as the adapters."""
