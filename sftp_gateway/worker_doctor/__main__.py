"""Where Python begins with the package, and with the one file that is made of it."""

import sys

from sftp_gateway.worker_doctor.command import main

sys.exit(main())
