"""The demo model that ships with dmr: its files in ``model/``, and the text and the script they were made from.

Nothing here is imported at run time: the service reads ``model/`` as files, and the modules that train the
model need packages that only a developer installs. Keep this module free of imports.
"""
