"""The command line: ``gradcheck``, or ``python -m gradcheck``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        from gradcheck.doors import cli
    except ImportError:
        from gradcheck.shadowed import shadowing

        if found := shadowing():
            print(found, file=sys.stderr)
            return 2
        raise
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())
