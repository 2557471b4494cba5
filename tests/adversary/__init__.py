"""An adversary of the prover: every proved claim spoiled in every way it knows, and false statements by hand."""

from __future__ import annotations
