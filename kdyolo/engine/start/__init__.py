"""Start of a training: its plan, what its detector starts from, and its run folder, checked before anything is touched.

Not here: what happens once it goes on (``engine``). May import: what ``engine`` may, but not the trainer.
"""
