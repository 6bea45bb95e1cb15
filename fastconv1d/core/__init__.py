"""What the public rooms are made of; names here may change without notice.

Each module imports only those before it: tests/test_rooms.py has the order.
"""
