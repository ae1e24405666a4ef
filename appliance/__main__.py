"""`python -m appliance` is the same as `hearth`."""

from appliance.cli.main import main

main()
