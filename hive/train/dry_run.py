"""--dry-run."""
def report(config): return ""
