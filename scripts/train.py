"""Train one network: python scripts/train.py model=vgg data.resize=224, and --help for the rest."""

try:
    from convnets.training.command import main
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None


@main
def train(config, run_dir):
    """Import what is heavy only here, so that --help and a typo answer at once."""
    from convnets.training.train import train

    return train(config, run_dir).get("metrics", {}).get("val/accuracy")  # none in a process beside the first


if __name__ == "__main__":
    train()
