"""``python -m tests.adversary.table``: the whole attack, and what became of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from adversary.judging import attack, sample


def main() -> int:
    """Print the counts; 1 if a false statement was proved."""
    every = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    start = time.process_time()
    out = attack(sample(1), every)
    print("| spoiled by | made | refused | proved, and true |\n|---|---|---|---|")
    for how, made in sorted(out.made.items()):
        print(f"| {how} | {made:,} | {out.refused[how]:,} | {out.true[how]:,} |")
    totals = (out.made.total(), out.refused.total(), out.true.total())
    print("| all | " + " | ".join(f"{n:,}" for n in totals) + " |")
    print(f"\n{time.process_time() - start:.0f} s; proved and not true: {len(out.wrong)}")
    for line in (*out.wrong, *(f"{name}: no reason" for name in out.without_reason)):
        print(f"  {line}")
    return int(bool(out.wrong or out.without_reason))


if __name__ == "__main__":
    sys.exit(main())
