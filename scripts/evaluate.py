"""Evaluate a trained run on a split: accuracy, loss, precision and recall, confusion matrix, calibration."""

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

command = Command(__doc__)
command.add_run()
command.add_argument("--split", choices=("test", "val", "train"), default="test", help="(test)")
command.add_argument(
    "--tta",
    choices=("none", "mirror", "mirror_shift"),
    help="average the scores over each image and its mirror image, or shifted ones, too (as the run says)",
)
command.add_trust()


def main(arguments):
    """Evaluate, print the figures, and say where the files are."""
    from convnets.results.evaluation import as_table, evaluate, files_of
    from convnets.results.trained_run import load_run

    run = load_run(arguments.run, arguments.trust)
    print(run)
    evaluation = evaluate(run, arguments.split, arguments.tta)
    print(as_table(evaluation))
    print(f"\nin {run}: {', '.join(files_of(run, evaluation))}")


if __name__ == "__main__":
    command.run(main)
