"""From records to a report: ``report.json`` for programs, ``report.html`` for people.

Example:
    >>> from compose.evaluate.report import write_report
    >>> report = write_report(Path("out"), compare=Path("before/report.json"))
    >>> report["rows"][0]["value"]
"""

from compose.evaluate.report.comparing import Change, Comparison, compare_reports
from compose.evaluate.report.writing import write_report

__all__ = ["Change", "Comparison", "compare_reports", "write_report"]
