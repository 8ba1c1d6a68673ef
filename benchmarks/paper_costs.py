"""Cost figures of the papers beside ours: paper's figure, ours, difference, how counted. No weights are needed.

    python benchmarks/paper_costs.py           # a table
    python benchmarks/paper_costs.py --json    # the rows, and how they were made

Ours is counted by torch on the meta device and must equal the closed form, or the script fails. A method adds one file to `papers`,
and its name to PAPERS.
"""

from __future__ import annotations

import argparse
import json

import rows
from papers import apt, clip, cvpt, das, diffusion, dvp, memvp, pc, segmentation, vpt

PAPERS = (vpt, cvpt, pc, apt, das, dvp, memvp, clip, diffusion, segmentation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = [line for paper in PAPERS for line in paper.costs()]
    if options.json:
        print(json.dumps({"rows": found, **rows.describe(seed=0)}, indent=2))
    else:
        columns = {
            "what": "{what}",
            "paper": "{paper:,}",
            "ours": "{ours:,}",
            "difference": "{difference:+}",
            "unit": "{unit}",
        }
        print(rows.table(found, columns))
        print(
            "1 MAC = 1 multiplication + 1 addition = 2 FLOPs; papers of this field usually print MACs and call them FLOPs"
        )


if __name__ == "__main__":
    main()
