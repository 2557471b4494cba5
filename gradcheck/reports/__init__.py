"""Reports of judgements: JSON, HTML, JUnit and Markdown; and the comparison with an earlier one."""

from gradcheck.reports.baseline import Regression, compare, load, notes
from gradcheck.reports.directions import Directions, directions_of, failure_directions
from gradcheck.reports.html import to_html
from gradcheck.reports.json_report import JSON_VERSION, SCHEMA_NAME, schema, to_json
from gradcheck.reports.junit import to_junit
from gradcheck.reports.markdown import to_markdown

__all__ = [
    "JSON_VERSION",
    "SCHEMA_NAME",
    "Directions",
    "Regression",
    "compare",
    "directions_of",
    "failure_directions",
    "load",
    "notes",
    "schema",
    "to_html",
    "to_json",
    "to_junit",
    "to_markdown",
]
