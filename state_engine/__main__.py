"""`python -m state_engine …`"""

import sys

from state_engine.cli.main import main

sys.exit(main())
