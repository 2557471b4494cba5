r"""Reading a stranger's loss in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gradcheck.conventions import declare
from gradcheck.doors.loading import load_function
from gradcheck.errors import GradcheckError, InputError
from gradcheck.judging.isolation.child import Send
from gradcheck.judging.isolation.limits import time_limit
from gradcheck.unveiling.assumed import Assumed
from gradcheck.unveiling.text import unveiled_text
from gradcheck.unveiling.unveil import unveil

__all__ = ["UnveilJob"]


@dataclass(frozen=True)
class UnveilJob:
    """A function to read.

    Attributes:
        text: the target of the command line.
        timeout: seconds that one call, or the import, may take.
        given: what it holds itself, KEY=VALUE.
        declared: algorithm, preset and conventions of a function that is not decorated.
    """

    text: str
    timeout: float
    given: tuple[str, ...]
    declared: tuple[str | None, str | None, dict[str, Any]] | None = None

    def run(self, send: Send) -> None:
        """Send what was found as text, or why nothing was."""
        torch.set_num_threads(1)
        try:
            with time_limit(self.timeout):
                function, declared = load_function(self.text)
            send("imported")
            if self.declared is not None:
                algorithm, preset, conventions = self.declared
                declared = declare(algorithm, preset=preset, **conventions)
            assumed = Assumed.of(list(self.given), declared)
            send("text", unveiled_text(unveil(function, self.text, self.timeout, assumed)))
        except InputError as error:
            send("refused", error.problems)
        except GradcheckError as error:
            send("broken", str(error))
