"""One module a kind of source: each opens files of that kind and gives a `Source` of records."""
