"""Registries spoken to over the network: the OCI distribution protocol."""
