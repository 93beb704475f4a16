"""Access log, metrics, history and status page.

Layers, each of which knows only those below it: `web`, `history`, `metrics`, `access_log`.
"""

from sftp_gateway.observability.access_log.json_lines import unescape_path

__all__ = ["unescape_path"]
