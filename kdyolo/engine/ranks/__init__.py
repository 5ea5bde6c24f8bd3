"""Several processes in one run: how Ultralytics' trainer works on each of them.

Not here: process group and values for all ranks (``utils.distributed``). May import: what ``engine`` may.
"""
