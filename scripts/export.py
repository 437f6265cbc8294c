"""Export a trained run as a program that takes batches of images as bytes, its preprocessing included."""

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

command = Command(__doc__)
command.add_run()
command.add_argument("--to", choices=("onnx", "torch"), required=True, help="model.onnx, or model.pt2 of torch.export")
command.add_argument(
    "--card",
    action="store_true",
    help="write model_card.md too: how to load it, how good it is, its limits",
)
command.add_trust()


def main(arguments):
    """Export, check, and say where the program is."""
    from convnets.results.export import export
    from convnets.results.trained_run import load_run

    run = load_run(arguments.run, arguments.trust)
    exported = export(run, arguments.to)
    print(exported)
    if arguments.card:
        from convnets.files import shown
        from convnets.results.model_card import write_card

        print(f"card: {shown(write_card(run, exported))}")


if __name__ == "__main__":
    command.run(main)
