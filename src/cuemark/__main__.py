"""``python -m cuemark``."""

from cuemark.cli import main

main()
