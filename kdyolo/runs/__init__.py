"""One run folder: its files, its record, the process that works in it, its log. No torch, no Ultralytics.

Not here: training (``engine``) and several runs (``experiments``). May import: all but those two and ``cli``.
"""
