"""What is in a run's event files, as TensorBoard reads them."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginEventAccumulator

ALL = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}


def read(path):
    return EventAccumulator(str(path), size_guidance=ALL).Reload()


def all_points(path):
    """Every point of every tag, whatever its kind, but for measured times and speeds: {tag: [(step, bytes)]}."""
    events = PluginEventAccumulator(str(path), size_guidance={"tensors": 0}).Reload()
    timed = ("second", "throughput/")
    return {
        tag: [(point.step, point.tensor_proto.SerializeToString()) for point in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if not any(word in tag for word in timed)
    }
