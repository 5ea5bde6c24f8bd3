"""From a weights file to tensors to a filled backbone, with a report of what fitted; and out again.

Not here: what a backbone is (``models``), what a run keeps to resume (``engine``). May import: ``models``, ``utils``.
"""
