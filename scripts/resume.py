"""Go on with an unfinished run from its folder alone: python scripts/resume.py RUN."""

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

command = Command(__doc__)
command.add_run()
command.add_argument(
    "changes",
    nargs="*",
    default=[],
    metavar="KEY=VALUE",
    help="trainer.max_epochs=20 adds epochs to a run; checkpoint.every_seconds=5 and the like change what decides no "
    "result",
)
command.add_argument(
    "--retrain",
    action="store_true",
    help="add epochs to a finished run without checkpoints too: train it again to the same bits, then on",
)
command.add_trust()


def main(arguments):
    """Load the folder's configuration, and train on."""
    from convnets.runs.finding import find_run
    from convnets.runs.run import Run
    from convnets.training.retraining import go_on

    if message := go_on(Run(find_run(arguments.run), arguments.trust), arguments.changes, arguments.retrain):
        print(message)


if __name__ == "__main__":
    command.run(main)
