"""``/openapi.json``: what the service answers to, as one table beside the routes.

A test holds the table to the routes of the application, in both directions, and another sends it whatever it allows.
"""
