r"""What an implementation declares about itself: the conventions in which right code differs from right code.

A declaration is data.  The defaults are the papers'; :data:`PRESETS` holds what the public official
implementations do.  The oracle tests the declaration itself too: a wrong one is reported as such.
"""

from gradcheck.conventions.declaration import Alternative, BatchReduction, Conventions
from gradcheck.conventions.declaring import declare
from gradcheck.conventions.listing import options_text
from gradcheck.conventions.presets import PRESETS
from gradcheck.conventions.problems import variables_problems

__all__ = [
    "PRESETS",
    "Alternative",
    "BatchReduction",
    "Conventions",
    "declare",
    "options_text",
    "variables_problems",
]
