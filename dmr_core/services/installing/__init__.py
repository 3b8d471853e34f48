"""Bringing engines here and removing them: rules, and what carries them out."""
