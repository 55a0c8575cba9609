"""Fresh processes that start in a moment: forked from one that has imported the libraries, but not ours.

`python tests/forks.py` is that process: a line of JSON says what to run, one with the exit status comes back.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = (
    "torch",
    "diffusers.pipelines.ddpm",
    "diffusers.models.unets.unet_2d",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
    "accelerate",
    "datasets",
)


class Forks:
    """The process to fork from.

    Args:
        environment: of it and its children; what huggingface_hub reads when it is imported.
    """

    def __init__(self, environment):
        self.folder = Path(tempfile.mkdtemp(prefix="forks-"))
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, *command, cwd=None, **environment):
        """Run a script, or code after "-c", as `python *command` would; return a CompletedProcess."""
        asked = {
            "argv": [str(word) for word in command], "env": environment, "output": str(self.folder),
            "cwd": str(cwd or Path.cwd()),
        }  # fmt: skip
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        texts = [(self.folder / name).read_text() for name in ("out", "err")]
        return subprocess.CompletedProcess(command, status, *texts)

    def close(self):
        self.process.communicate(timeout=60)


def _child(argv, env, output, cwd):
    import runpy

    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(f"{output}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(cwd)
    sys.stdin, sys.stdout, sys.stderr = open(os.devnull), os.fdopen(1, "w"), os.fdopen(2, "w")  # noqa: SIM115
    for name, value in env.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    if argv[0] == "-c":
        sys.argv = ["-c", *argv[2:]]
        exec(compile(argv[1], "<code>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")


def _serve():
    import importlib

    for library in LIBRARIES:
        importlib.import_module(library)
    assert "ddpm_from_scratch" not in sys.modules
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _child(**json.loads(line))
                status = 0
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
