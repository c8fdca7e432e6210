"""
The Alembic environment of the store; the wheel carries it as ``ullage.migrations``.
"""
