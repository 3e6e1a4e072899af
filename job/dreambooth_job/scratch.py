"""The one folder for working data: where every cache of every library points, and how it is emptied."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import structlog

from dreambooth_api.status import Purge

log = structlog.get_logger()

# Libraries that would write below a home or a system folder are sent below scratch, and none may reach for a hub.
_FOLDERS = {
    "HOME": "home",
    "TMPDIR": "tmp",
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "XDG_STATE_HOME": "state",
    "XDG_RUNTIME_DIR": "run",
    "HF_HOME": "cache/huggingface",
    "MPLCONFIGDIR": "cache/matplotlib",
    "TORCH_HOME": "cache/torch",
    "TORCHINDUCTOR_CACHE_DIR": "cache/inductor",
    "TRITON_CACHE_DIR": "cache/triton",
    "CUDA_CACHE_PATH": "cache/cuda",
}
_SETTINGS = {
    "USER": "dreambooth",  # a pod's user is in no passwd file, where libraries would look for a name
    "LOGNAME": "dreambooth",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "AWS_EC2_METADATA_DISABLED": "true",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def working_environment(scratch: Path) -> dict[str, str]:
    """The trainer's environment on top of the pod's; makes the folders it names."""
    folders = {name: scratch / below for name, below in _FOLDERS.items()}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {name: str(folder) for name, folder in folders.items()} | _SETTINGS


def purge(scratch: Path) -> Purge:
    """Removes everything below `scratch` (the folder itself is a mount and stays) and counts what went."""
    files = size_bytes = 0
    for folder, names, leaves in os.walk(scratch, topdown=False):
        for name in leaves + names:
            path = Path(folder, name)
            try:
                status = path.lstat()
                if stat.S_ISDIR(status.st_mode):
                    path.rmdir()
                else:
                    path.unlink()
                    files, size_bytes = files + 1, size_bytes + status.st_size
            except OSError as error:  # a mount's own lost+found may refuse: the rest must still go
                log.warning("purge_refused", error=error.strerror)
    return Purge(files=files, size_bytes=size_bytes, complete=not any(scratch.iterdir()))
