from dmr_core.hookspecs import hookimpl


@hookimpl
def dmr_no_such_hook():
    return ()
