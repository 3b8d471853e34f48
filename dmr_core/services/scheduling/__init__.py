"""Deciding which engine runs when: pure rules, and the pump that carries them out."""
