"""``python -m bench.card``, from a checkout."""

import sys

from bench.card.run import main

sys.exit(main())
