"""Files to records: one module a kind of source."""
