"""Probes for accelerators, one module per variant, registered like any third party's."""
