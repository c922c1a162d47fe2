"""The console script ``steelyard``. It imports next to nothing before Ctrl-C is in hand."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

from steelyard.cli.interrupts import leave_on_interrupt


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    leave_on_interrupt()
    app = importlib.import_module("steelyard.cli.app")
    sys.exit(app.run(sys.argv[1:]))


if __name__ == "__main__":
    main()
