"""Contract suites: subclass one, supply its fixture, and pytest runs the whole port against your adapter."""
