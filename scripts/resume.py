"""Go on with an unfinished run from its folder alone: python scripts/resume.py RUN."""

import argparse

try:
    from convnets.configuration.errors import errors_explained
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", metavar="RUN", help="a run's folder, its name in outputs/, or latest")
parser.add_argument(
    "changes",
    nargs="*",
    default=[],
    metavar="KEY=VALUE",
    help="trainer.max_epochs=20 adds epochs to a run (a finished one needs the checkpoint.keep=true it was trained "
    "with); checkpoint.every_seconds=5 and the like change what decides no result",
)
parser.add_argument("--trust", action="append", default=[], metavar="CLASS", help="a class outside conf/ to be called")


def main() -> None:
    """Load the folder's configuration, and train on."""
    arguments = parser.parse_args()
    with errors_explained():
        from convnets.runs.finding import find_run
        from convnets.runs.run import Run
        from convnets.training.extend import extend
        from convnets.training.train import train

        run = Run(find_run(arguments.run), arguments.trust)
        train(extend(run, arguments.changes), run.path)


if __name__ == "__main__":
    main()
