"""
What the tests build on: a registry that misbehaves, and images whose every byte is known.
"""
