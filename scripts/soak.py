"""Kill a LeNet training on the real images again and again; its result must be that of the training left alone."""

import argparse
import random
import sys
from datetime import datetime
from pathlib import Path

try:
    from convnets.configuration.composition import add_config_dir
    from convnets.configuration.errors import errors_explained
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

SETTINGS = ("checkpoint.every_seconds=1", "checkpoint.keep=true", "callbacks=none", "run_name=soak")

parser = argparse.ArgumentParser(description=__doc__, epilog="The last line is the tally; exit code 0 if identical.")
parser.add_argument("overrides", nargs="*", help="of the configuration, such as model=vgg data.resize=32")
parser.add_argument("--kills", type=int, default=100, help="(100)")
parser.add_argument("--seed", type=int, default=0, help="of the instants (0)")
add_config_dir(parser)


def main() -> int:
    """Be the parent, or a child that will be killed."""
    if sys.argv[1:2] == ["--child"]:
        from convnets.benchmark.soak import train_counted

        train_counted(sys.argv[4:], Path(sys.argv[2]), Path(sys.argv[3]))
        return 0
    arguments = parser.parse_intermixed_args()
    if arguments.kills < 1:
        parser.error(f"--kills must be at least 1, got {arguments.kills}")
    given = [*arguments.config_dir, *arguments.overrides]
    with errors_explained(given):
        from convnets.benchmark.soak import Soak

        epochs = f"trainer.max_epochs={max(arguments.kills // 2, 2)}"
        folder = Path("outputs/soak") / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
        overrides = [epochs, *SETTINGS, *given]
        tally = Soak(folder, overrides, arguments.kills, random.Random(arguments.seed)).carry_out()
    print(tally)
    return 1 if "DIFFERENT" in tally else 0


if __name__ == "__main__":
    sys.exit(main())
