"""Compare two trained runs: configuration, metrics, and a paired test on the same test images."""

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

command = Command(__doc__)
command.add_run("a")
command.add_run("b", help="another")
command.add_trust()


def main(arguments):
    """Compare the two runs, and print the comparison."""
    from convnets.results.evaluation import compare, comparison_as_table
    from convnets.results.trained_run import load_run

    a, b = (load_run(run, arguments.trust) for run in (arguments.a, arguments.b))
    print(comparison_as_table(a, b, compare(a, b)))


if __name__ == "__main__":
    command.run(main)
