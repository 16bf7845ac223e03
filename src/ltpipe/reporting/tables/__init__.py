"""The tables of the report, one file each: columns, builder and section of the page."""
