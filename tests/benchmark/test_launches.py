import pytest

from convnets.benchmark.launches import Launches, percent_waited_for
from convnets.benchmark.measuring import Task
from convnets.training.train import train


def call(correlation, at):
    return {
        "ph": "X",
        "cat": "cuda_runtime",
        "name": "cudaLaunchKernel",
        "ts": at,
        "dur": 3,
        "args": {"correlation": correlation},
    }


def work(correlation, at, seconds, cat="kernel"):
    return {"ph": "X", "cat": cat, "name": "gemm", "ts": at, "dur": seconds, "args": {"correlation": correlation}}


def test_a_launch_is_waited_for_if_it_is_made_when_the_device_has_nothing_to_do():
    ahead = [call(1, 0), call(2, 5), call(3, 10), work(1, 2, 50), work(2, 52, 10), work(3, 62, 10)]
    late = [call(4, 80), work(4, 84, 1, "gpu_memcpy"), call(5, 90), work(5, 94, 10)]
    graph = [call(6, 95), work(6, 105, 10), work(6, 130, 10)]  # in which a kernel waits for none of the processor's
    marks = [
        {"ph": "M", "name": "process_name"},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaDeviceSynchronize", "ts": 1},
    ]
    assert percent_waited_for([*ahead, *marks]) == 0
    assert percent_waited_for([*late, *ahead]) == 100 * 2 / 4
    assert percent_waited_for([*ahead, *late, *graph]) == pytest.approx(100 * 2 / 5)
    assert percent_waited_for([call(1, 0), work(1, 5, 1), *marks]) is None


def test_a_cpu_launches_nothing(small, tmp_path):
    """Stand-in: the trace is begun, ended and read, and there is no device in it."""
    launches = Launches(Task("launches", "lenet", num_warm_up=2, steps_per_execution=2))
    train(
        small(
            "trainer.limit_train_batches=null", "trainer.max_epochs=1", "steps_per_execution=2", "data.batch_size=20"
        ),
        tmp_path,
        [launches],
    )
    assert launches.percent is None
    assert (launches._first, launches._last) == (1, 20)
