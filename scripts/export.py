"""Export a trained run as a program that takes batches of images as bytes, its preprocessing included."""

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

command = Command(__doc__)
command.add_run()
command.add_argument("--to", choices=("onnx", "torch"), required=True, help="model.onnx, or model.pt2 of torch.export")
command.add_trust()


def main(arguments):
    """Export, check, and say where the program is."""
    from convnets.results.export import export
    from convnets.results.trained_run import load_run

    print(export(load_run(arguments.run, arguments.trust), arguments.to))


if __name__ == "__main__":
    command.run(main)
