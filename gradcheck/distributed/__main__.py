"""``torchrun --nproc-per-node 2 -m gradcheck.distributed judge_trainer.py``."""

from __future__ import annotations

import sys

from gradcheck.doors.distributed import main

sys.exit(main())
