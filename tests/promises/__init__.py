"""What docs/production.md promises: a file a subject, full counts with `pytest -m soak`."""
