"""One module for each command; `dmr_cli.main` imports only the one that was asked for."""
