"""`python -m appliance` is the same as `hearth`."""

import sys

from appliance.cli.main import main

sys.exit(main())
