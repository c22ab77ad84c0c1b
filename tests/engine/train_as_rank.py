"""One rank of a training run: SPEC DATA OUT. Saves the weights that the rank ends with beside OUT."""

from __future__ import annotations

import os
import sys

import torch

from codetr.api import train
from codetr.engine import session
from codetr.engine.trainer import Outcome, Trainer


class Watched(Trainer):
    def run(self, *, max_steps: int | None = None) -> Outcome:
        outcome = super().run(max_steps=max_steps)
        torch.save(self.model.state_dict(), f"{sys.argv[3]}-rank{os.environ.get('RANK', '0')}.pt")
        return outcome


if __name__ == "__main__":
    torch.set_num_threads(1)
    session.Trainer = Watched
    train(sys.argv[1], data=sys.argv[2], out=sys.argv[3], overrides=sys.argv[4:])
