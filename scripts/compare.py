"""Compare two trained runs: configuration, metrics, and a paired test on the same test images."""

import argparse

try:
    from convnets.configuration.errors import errors_explained
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("a", metavar="A", help="a run's folder, its name in outputs/, latest, or best:SWEEP")
parser.add_argument("b", metavar="B", help="another")
parser.add_argument("--trust", action="append", default=[], metavar="CLASS", help="a class outside conf/ to be called")


def main() -> None:
    """Compare, print."""
    arguments = parser.parse_args()
    with errors_explained():
        from convnets.results.evaluation import compare, comparison_as_table
        from convnets.results.trained import load_run

        a, b = (load_run(run, arguments.trust) for run in (arguments.a, arguments.b))
        print(comparison_as_table(a, b, compare(a, b)))


if __name__ == "__main__":
    main()
