"""Roles the core needs from the outside, one small protocol per module."""
