"""Training, validation, prediction and resuming: everything that extends Ultralytics' engine.

Not here: several runs (``experiments``), networks (``models``). May import: all but ``experiments`` and ``cli``.
"""
