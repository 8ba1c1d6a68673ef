"""Methods x tasks x seeds from one file: every cell is a training run, and one report sets accuracy against cost.

plan (what the file says) -> cell (what one process does) <- engines (where processes run) <- sweep (the whole, resumable)
statistics (pure) <- charts (geometry) <- page (the report)
"""
