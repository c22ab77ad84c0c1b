"""One rank of a run, `codetr train` with these arguments; once, rank 1 kills itself in step DIE_AT.

DIE_NOTE: a file that says that it was done.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from codetr.cli.main import main
from codetr.engine.trainer import Trainer

step = Trainer._train_step


def fatal(self: Trainer, *arguments: Any) -> Any:
    note = Path(os.environ["DIE_NOTE"])
    if self.world.rank == 1 and self.step + 1 == int(os.environ["DIE_AT"]) and not note.exists():
        note.write_text("died")
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments)


if __name__ == "__main__":
    Trainer._train_step = fatal  # type: ignore[method-assign]
    sys.exit(main())
