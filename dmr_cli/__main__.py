"""``python -m dmr_cli`` is ``dmr``."""

import sys

from dmr_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
