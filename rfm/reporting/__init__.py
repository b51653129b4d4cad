"""Reports: what a run, or all runs of a sweep, measured: table, figures, one HTML file.

Everything here is a pure function of the records and metrics that a run leaves behind
(`read_run`, `read_sweep`), needs no model, data set or JAX, and draws without a display.
"""

from rfm.reporting import figures, gallery
from rfm.reporting.html import write_report
from rfm.reporting.records import Record, Value, read_record
from rfm.reporting.run import Run, read_run
from rfm.reporting.sweep import is_run, read_sweep
from rfm.reporting.sweep_html import write_sweep_report
from rfm.reporting.sweep_tables import SweepTable, sweep_table
from rfm.reporting.tables import ResultsTable, table

__all__ = [
    "Record",
    "ResultsTable",
    "Run",
    "SweepTable",
    "Value",
    "figures",
    "gallery",
    "is_run",
    "read_record",
    "read_run",
    "read_sweep",
    "sweep_table",
    "table",
    "write_report",
    "write_sweep_report",
]
