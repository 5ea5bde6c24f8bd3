"""Several processes in one run: which devices they have, how they start, and how Ultralytics' trainer works on each.

Not here: process group and values for all ranks (``utils.distributed``). May import: what ``engine`` may.
"""
