"""The report of a run: `report.json` read back, and written as Markdown and as one self-contained HTML page."""
