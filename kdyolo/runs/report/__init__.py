"""``report.html``: a comparison as one page that needs nothing else, and its charts as pictures for papers."""

from kdyolo.runs.report.page import write_report

__all__ = ["write_report"]
