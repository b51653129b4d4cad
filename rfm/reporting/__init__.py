"""Reports: what a run measured, as a table, figures, and one HTML file.

Everything here is a pure function of the records and metrics that a run leaves behind
(`read_run`), needs no model, data set or JAX, and draws without a display.
"""

from rfm.reporting import figures, gallery
from rfm.reporting.html import write_report
from rfm.reporting.records import Record, Value, read_record
from rfm.reporting.run import Run, read_run
from rfm.reporting.tables import ResultsTable, table

__all__ = [
    "Record",
    "ResultsTable",
    "Run",
    "Value",
    "figures",
    "gallery",
    "read_record",
    "read_run",
    "table",
    "write_report",
]
