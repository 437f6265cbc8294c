"""Train one network: python scripts/train.py model=vgg data.resize=224, and --help for the rest."""

try:
    import convnets.configuration.naming  # noqa: F401 (names their folders)
    from convnets.configuration.composition import CONFIG_DIR, main
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None


@main(CONFIG_DIR, "train")
def train(config, run_dir):
    """Import what is heavy only here, so that --help and a typo answer at once."""
    from convnets.training.train import train

    return train(config, run_dir).get("metrics", {}).get("val/accuracy")  # none in a process beside the first


if __name__ == "__main__":
    train()
