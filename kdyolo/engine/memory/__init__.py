"""Memory of the device that trains: how much a step takes, and which batch fits.

Not here: peak memory of each epoch in ``results.csv`` (``engine.evaluation``). May import: what ``engine`` may.
"""
