"""``python -m pyrovae`` is the command line."""

import sys

from pyrovae.cli.app import main

sys.exit(main())
