"""``python -m bench``: the contests, from a checkout that pip knows as faceloom."""

import sys

from bench.report import main

sys.exit(main())
