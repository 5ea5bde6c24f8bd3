"""What every kind of run shares: how its options are declared, which devices it has.

Not here: which options there are (``engine.options``, ``distillation.options``). May import: ``utils``.
"""
