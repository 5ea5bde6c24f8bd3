"""What is found of arms beside their differences: label efficiency, and where their backbones come from.

Not here: grouping, statistics, and how anything is shown. May import: those modules of ``comparison`` that do these.
"""
