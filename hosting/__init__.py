"""What both roles need to run as services: private folders, supervised processes, switches.

Standard library only, so that a supervisor is a small process. Neither role knows the other, and
both stand on this.
"""

from .files import (
    append_line,
    private_folder,
    read_private,
    remove_file,
    replace_file,
    write_new,
)
from .supervisor import Service, Supervisor, follow_parent, running_state, stop_supervisor
from .switches import FLOWER_SWITCHES, loopback_needs_no_proxy, service_environment

__all__ = [
    "FLOWER_SWITCHES",
    "Service",
    "Supervisor",
    "append_line",
    "follow_parent",
    "loopback_needs_no_proxy",
    "private_folder",
    "read_private",
    "remove_file",
    "replace_file",
    "running_state",
    "service_environment",
    "stop_supervisor",
    "write_new",
]
