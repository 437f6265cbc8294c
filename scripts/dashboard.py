"""Open TensorBoard on runs and sweeps: python scripts/dashboard.py [RUN|SWEEP...]; by default on all of outputs/."""

import argparse
import sys
from pathlib import Path

try:
    from convnets.configuration.errors import errors_explained
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folders", nargs="*", metavar="RUN|SWEEP", help="folders, their names in outputs/, or latest")
parser.add_argument("--port", type=int, help="(the first that is free from 6006 on)")


def main() -> int:
    """Find the folders, and serve them."""
    arguments = parser.parse_args()
    with errors_explained():
        from convnets.configuration.shell import script
        from convnets.files import RunFolderError
        from convnets.results.tensorboard_server import serve
        from convnets.runs.finding import find_folders, find_runs

        folders = find_folders(arguments.folders) if arguments.folders else [Path("outputs")]
        num_runs = len(find_runs(folders))
        if not num_runs:
            raise RunFolderError(f"There is no run in {folders[0]} yet: {script('train')} makes one.")
        return serve(folders, num_runs, arguments.port)


if __name__ == "__main__":
    sys.exit(main())
