"""`python -m hookengine` is the command `hookengine`."""

from __future__ import annotations

import sys

from hookengine.cli import main

sys.exit(main())
