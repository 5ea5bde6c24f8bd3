"""Runs beside each other: their history, studies, background runs, comparison, the report."""
