"""``python -m laser_lightning``: the command line."""

import sys

from laser_lightning.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main())
