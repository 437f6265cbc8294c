"""The pictures of chapter 7, and the curves of the recipes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convnets import plots
from convnets.book.listings import EDGE_KERNEL, edge_image
from convnets.book.operations import corr2d, learn_kernel
from convnets.book.recipes import finished_runs
from convnets.configuration.shell import script
from convnets.data import FashionMNISTSampleDataModule
from convnets.runs.run import Run
from convnets.training.building import build_classifier, build_datamodule

SWEATER, COAT = 2, 4  # labels of "Pullover" and "Coat"


def draw_all(recipes: Sequence[str], runs_dir: Path, figures_dir: Path) -> list[str]:
    """Write every figure that can be drawn as PNG and SVG; return a line for each that was drawn or is missing."""
    figures_dir.mkdir(parents=True, exist_ok=True)
    lines = []

    def save(figures: Mapping[str, Figure]) -> None:
        for name, figure in figures.items():
            for suffix in ("png", "svg"):
                figure.savefig(figures_dir / f"{name}.{suffix}", dpi=150)
            lines.append(f"drawn: {figures_dir / name}.png and .svg")

    edges = corr2d(edge_image(), EDGE_KERNEL)
    save({"edges": image_and_edges(edge_image().numpy(), edges.numpy())})
    kernel, losses = learn_kernel(edge_image(), edges)
    learned = ", ".join(f"{weight:.4f}" for weight in kernel.flatten().tolist())
    save({"learned-kernel": learning_curve(losses, f"Learning the edge kernel: [{learned}] after 10 steps")})
    for recipe in recipes:
        if run := next(finished_runs(recipe, runs_dir), None):
            precision = run.config.trainer.precision
            title = f"{recipe}, seed {run.config.seed}" + ("" if precision == "32-true" else f", {precision}")
            save({f"{recipe}-curves": plots.training_curves(run.history, title)})
            save(_lenet_pictures(run, title) if recipe == "lenet" else {})
        else:
            what = "curves, filters and feature maps" if recipe == "lenet" else "curves"
            lines.append(
                f"missing: {what} of {recipe}, for there is no finished run in {runs_dir}; this trains one: "
                f"{script('reproduce', recipe, '--seeds', '1')}"
            )
    return lines


def _lenet_pictures(run: Run, title: str) -> dict[str, Figure]:
    """The filters of the first layer, and what each layer makes of two test images."""
    network = build_classifier(run.config, build_datamodule(run.config)).network.eval()
    network.load_state_dict(safetensors.torch.load_file(run.path / "weights.safetensors"))
    first = network.get_submodule("0")
    assert isinstance(first, torch.nn.Conv2d)
    filters = first.weight.detach().squeeze(1).numpy()
    pictures = {"lenet-filters": plots.filters(filters, f"First layer, 5x5 ({title})")}
    sample = FashionMNISTSampleDataModule()
    images, labels = sample.read_split("test")
    for label, name in ((SWEATER, "sweater"), (COAT, "coat")):
        values = sample.on_after_batch_transfer((images[labels == label][:1], labels), 0)[0]
        layers = [("image", values[0].numpy())]
        with torch.inference_mode():
            for layer in network.children():
                values = layer(values)
                layers.append((type(layer).__name__, values[0].numpy()))
        prediction = sample.class_names[int(values.argmax())]
        heading = f"A {name} ({sample.class_names[label]}) through {title}: taken for {prediction}"
        pictures[f"lenet-feature-maps-{name}"] = plots.feature_maps(layers, sample.class_names, heading)
    return pictures


def image_and_edges(image: NDArray[np.floating], edges: NDArray[np.floating]) -> Figure:
    """Draw an image (H, W) and its feature map (H', W') side by side, negative purple and positive orange."""
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[image.shape[1], edges.shape[1]])  # so that heights are the same
    left.imshow(image, cmap="gray", vmin=0, vmax=1)
    left.set_title("image (1: white)")
    drawn = right.imshow(edges, cmap="PuOr_r", vmin=-1, vmax=1)
    right.set_title("edges: kernel [1, -1]")
    plots.colorbar(figure, right, drawn, ticks=[-1, 0, 1])
    for axes in (left, right):
        axes.set(xlabel="column", ylabel="row")
    return figure


def learning_curve(losses: Sequence[float], title: str) -> Figure:
    """Draw a loss by the step, on a logarithmic scale."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(range(1, len(losses) + 1), losses, color=plots.BLUE, marker="o", markersize=4)
    axes.set(title=plots.wrapped(title, 5), xlabel="step", ylabel="sum of squared errors", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    return figure
