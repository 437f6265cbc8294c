"""Evaluate a trained run on a split: accuracy, loss, precision and recall, confusion matrix, calibration."""

import argparse

try:
    from convnets.configuration.errors import errors_explained
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", metavar="RUN", help="a run's folder, its name in outputs/, latest, or best:SWEEP")
parser.add_argument("--split", choices=("test", "val", "train"), default="test", help="(test)")
parser.add_argument("--trust", action="append", default=[], metavar="CLASS", help="a class outside conf/ to be called")


def main() -> None:
    """Evaluate, print, say where the files are."""
    arguments = parser.parse_args()
    with errors_explained():
        from convnets.results.evaluation import as_table, evaluate
        from convnets.results.trained import load_run

        run = load_run(arguments.run, arguments.trust)
        print(run)
        print(as_table(evaluate(run, arguments.split)))
        files = ("evaluation-{0}.json", "predictions-{0}.csv", "confusion-{0}.png")
        print(f"\nin {run}: {', '.join(files).format(arguments.split)}")


if __name__ == "__main__":
    main()
