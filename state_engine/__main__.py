"""`python -m state_engine …`"""

import sys

from state_engine.cli import main

sys.exit(main())
