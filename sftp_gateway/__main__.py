"""`python -m sftp_gateway`."""

import sys

from sftp_gateway.commands.main import main

sys.exit(main())
