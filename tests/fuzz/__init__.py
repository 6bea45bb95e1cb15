"""A fuzz program: hostile arguments and files, random layers and layouts.

Run it with ``python -m tests.fuzz``, which has ``--help``.
"""
