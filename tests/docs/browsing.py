"""The browser that the tests of pages look with."""

from __future__ import annotations

import importlib.util
import shutil

__all__ = ["CHROMIUM", "NO_BROWSER"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_MISSING = "" if importlib.util.find_spec("playwright") else "playwright is not installed: it is in the docs extra"
NO_BROWSER = _MISSING if CHROMIUM else "there is no Chromium here"
"""Why there is none; empty where there is one."""
