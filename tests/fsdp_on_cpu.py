"""Run a script under FSDP2 on CPUs: torch.distributed.run ... tests/fsdp_on_cpu.py SCRIPT [flags].

Accelerate shards on GPUs only and would silently take DDP here, so it is told that these processes are GPU
processes, after it has chosen the CPU and gloo.
"""

import os
import runpy
import sys
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType

os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
os.environ.pop("ACCELERATE_USE_CPU", None)
PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
del sys.argv[0]
sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
runpy.run_path(sys.argv[0], run_name="__main__")
