"""kdyolo's own training options: their declaration, the recipes behind them, and the check of all at once.

Not here: what follows from options for a run (``engine.start``). May import: what ``engine`` may.
"""
