"""
The revisions, oldest first. One that has landed is never edited.
"""
