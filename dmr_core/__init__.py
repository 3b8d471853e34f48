"""The pure core of dmr: values, ports and services, with no framework and no I/O of its own.

Import from the module that owns a name; this package re-exports nothing, so that a command-line
client can import one small module without paying for the rest.
"""

__version__ = "0.1.0"
