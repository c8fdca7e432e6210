"""
``python -m ullage``: the same as the command ``ullage``.
"""

import sys

from ullage.cli import main

if __name__ == "__main__":
    sys.exit(main())
