"""Searching the hubs that models come from."""
