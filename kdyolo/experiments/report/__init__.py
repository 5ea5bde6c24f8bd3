"""A comparison as ``report.html``, one page that needs nothing else, and its charts as pictures for papers.

Not here: what is compared (``experiments.comparison``). May import: that, and ``engine`` and below.
"""

from kdyolo.experiments.report.html_report import write_report

__all__ = ["write_report"]
