"""Several processes in one run: how they start, and how Ultralytics' trainer works on each.

Not here: which devices they have (``runs.lifecycle.devices``), process group and values for all ranks
(``utils.distributed``). May import: what ``engine`` may.
"""
