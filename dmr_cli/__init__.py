"""The dmr command line and service.

Imports nothing, so that a client command pays only for what it uses.
"""

__version__ = "0.1.0"
