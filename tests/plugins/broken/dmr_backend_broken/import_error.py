import dmr_no_such_module_anywhere  # noqa: F401
