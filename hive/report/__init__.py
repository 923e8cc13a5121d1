"""Run folders as one HTML file that a person can open anywhere."""
