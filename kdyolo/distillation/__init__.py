"""From images and a frozen foundation model to a backbone, with proof of what it learned.

Not here: training a detector (``engine``), comparing backbones (``experiments``). May import: all below ``engine``.
"""
