"""Several processes, called ranks, that work on one job, started by ``mpiexec`` or ``srun``.

`communicator` returns what they exchange data by. A process that was started alone gets one of a single rank, whose
operations return at once: code is written once, for any number of ranks.
"""

from capgpu.distributed.communicator import ALONE, Communicator, Reduction
from capgpu.distributed.current import active_communicator, communicator, use_communicator
from capgpu.distributed.launch import Launch, LaunchError, launch

__all__ = [
    "ALONE",
    "Communicator",
    "Launch",
    "LaunchError",
    "Reduction",
    "active_communicator",
    "communicator",
    "launch",
    "use_communicator",
]
