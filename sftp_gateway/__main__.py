"""`python -m sftp_gateway`."""

import sys

from sftp_gateway.cli import main

sys.exit(main())
