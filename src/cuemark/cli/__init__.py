"""The command line: parsing and presentation only; the work of each command is one public function elsewhere.

Exit status 0, 1 (failed), 2 (bad call), 130 (stopped). Errors are one sentence on standard error; results go to
standard output, progress to standard error.
"""

from __future__ import annotations

from cuemark.cli.shell import app, main, with_json

# each adds its commands to ``app``, in the order that help shows them
from cuemark.cli import training, labels, library, web, scores, stock  # isort: skip

__all__ = ["app", "labels", "library", "main", "scores", "stock", "training", "web", "with_json"]
