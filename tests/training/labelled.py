"""As a program, what each of two ranks does for `test_classify_on_ranks.py`: a whole run from a rendered config."""

import sys
from pathlib import Path

from internvl.training.config import TrainConfig
from internvl.training.override import override
from internvl.training.run import train

if __name__ == "__main__":
    train(override(TrainConfig(), Path(sys.argv[1]).read_text().splitlines()))
