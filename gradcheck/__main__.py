"""The command line: ``gradcheck``, or ``python -m gradcheck``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        from gradcheck.doors import cli
    except KeyboardInterrupt:
        print("[gradcheck] interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # a module of another's may lack anything
        from gradcheck.shadowed import shadowing

        if found := shadowing(error):
            print(found, file=sys.stderr)
            return 2
        raise
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())
