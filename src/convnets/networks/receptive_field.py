"""Receptive fields: the part of the image that a unit depends on, followed through every operation of a network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # documented with torch's extension points, the only place
from torch.utils._pytree import tree_leaves, tree_map  # torch has no public way through nested containers

# Names of torch's operators. Of these, each output unit is a copy of an input unit:
MOVING = {
    *("cat", "stack", "clone", "_to_copy", "_unsafe_view", "constant_pad_nd", "reflection_pad2d", "replication_pad2d"),
    *("repeat", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "roll", "flip"),
    *("lift_fresh", "resolve_conj", "contiguous", "_reshape_alias"),
}
NORMALIZING = {"native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update"}
FIXED = {"_native_batch_norm_legit_no_training", "_batch_norm_no_update", "native_dropout"}
POOLING = {"max_pool2d_with_indices", "avg_pool2d"}
ADAPTIVE = {"_adaptive_avg_pool2d", "adaptive_max_pool2d"}
REDUCING = {"mean", "sum", "amax", "amin", "var", "std", "max", "min", "prod", "logsumexp"}
MATRICES = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # name: position of the first factor among the arguments
FILLING = {"empty_like", "zeros_like", "ones_like", "full_like", "new_empty", "new_zeros", "new_ones", "new_full"}
Pair = tuple[float, ...]


@dataclass(frozen=True)
class View:
    """The receptive field of a tensor's units; a pair is for the rows and the columns of the image.

    Attributes:
        size: in pixels; infinite for the whole image, NaN where it is unknown.
        step: pixels between neighbouring units.
        places: each unit's row and column of the image, counted from 1, and 0 for units that are not of the image. A
            tensor for the rows and one for the columns, with the unit's dimensions, of size 1 where nothing differs.
    """

    size: Pair
    step: Pair
    places: tuple[Tensor, ...]

    @property
    def side(self) -> float:
        """The longer side."""
        return math.nan if any(map(math.isnan, self.size)) else max(self.size)

    def differs_along(self, axis: int, dim: int) -> bool:
        """Whether units at other places along the tensor's dimension lie in other rows (axis 0) or columns (1)."""
        return self.places[axis].shape[dim] > 1

    def summed(self, dims: Sequence[int], keepdim: bool = True) -> "View":
        """The view of a unit that depends on all units along these dimensions, which it replaces."""
        whole = [any(self.differs_along(axis, dim) for dim in dims) for axis in (0, 1)]
        size = tuple(math.inf if w else size for size, w in zip(self.size, whole, strict=True))
        return replace(self, size=size, places=tuple(places.amax([*dims], keepdim) for places in self.places))

    def normalized(self, dims: Sequence[int]) -> "View":
        """The view of a unit that depends on all units along these dimensions, and keeps its place."""
        return replace(self.summed(dims), places=self.places)

    def through_window(self, extent: Sequence[int], stride: Sequence[float], output: Tensor) -> "View":
        """The view of a unit that depends on a window over the last two dimensions."""
        size, step, places = [*self.size], [*self.step], [*self.places]
        for axis in (0, 1):
            for dim in (0, 1):
                if self.differs_along(axis, dim - 2):
                    size[axis] += (extent[dim] - 1) * step[axis]
                    step[axis] *= stride[dim]
                    places[axis] = _numbered(output, dim - 2)
        return replace(self, size=tuple(size), step=tuple(step), places=tuple(places))

    def spread_over(self, tensor: Tensor) -> "View":
        """The view of a larger tensor's units, into a part of which such units were copied."""
        found = []
        for places in self.places:
            dims = [dim for dim, length in enumerate(places.shape) if length > 1]
            if len(dims) > 1 or places.ndim != tensor.ndim:
                return replace(self, size=(math.nan, math.nan))
            found.append(_numbered(tensor, dims[0]) if dims else places)
        return replace(self, places=tuple(found))


def _numbered(tensor: Tensor, dim: int) -> Tensor:
    shape = [1] * tensor.ndim
    shape[dim] = -1
    return torch.arange(1, tensor.shape[dim] + 1, dtype=torch.int32, device="cpu").view(shape)


def of_image(image: Tensor) -> View:
    """The view of an image (N, C, H, W), each of whose pixels depends on itself."""
    return View((1, 1), (1, 1), (_numbered(image, -2), _numbered(image, -1)))


class Views(TorchDispatchMode):
    """A context in which `views[tensor]` gives the receptive field of every tensor that is computed.

    It knows torch's operators that convolve, pool, sum, multiply matrices, normalise, move units or act on each unit
    alone. What depends on the image through any other operator has an unknown receptive field.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self._found: dict[int, View] = {}
        self._written: dict[torch.UntypedStorage, View] = {}  # of what was copied into a part of it
        self._alive: list[Tensor] = []  # so that no id is given twice
        self._note(image, of_image(image))

    def __getitem__(self, tensor: Tensor) -> View | None:
        """The view of the tensor's units; None for a tensor that does not depend on the image."""
        if (view := self._found.get(id(tensor))) is not None:
            return view
        written = self._written.get(tensor.untyped_storage())
        return None if written is None else written.spread_over(tensor)

    def _note(self, tensor: Tensor, view: View) -> None:
        self._found[id(tensor)] = view
        self._alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Execute the operation, and note the views of its outputs."""
        kwargs = kwargs or {}
        with self:  # an operator that torch composes of simpler ones is followed through these
            simpler = func.decompose(*args, **kwargs)
        if simpler is not NotImplemented:
            return simpler
        output = func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and self[leaf] is not None]
        name = func.overloadpacket.__name__.removesuffix("_")
        if inputs and name not in FILLING:
            for tensor in tree_leaves(output):
                if isinstance(tensor, Tensor):
                    view = self._view(func, name, inputs, args, kwargs, tensor)
                    self._note(tensor, view)
                    if func.overloadpacket.__name__.endswith("_") or "out" in kwargs:
                        self._written[tensor.untyped_storage()] = view
        return output

    def _view(self, func: Any, name: str, inputs: list[Tensor], args: Any, kwargs: Any, output: Tensor) -> View:
        seen = [view for tensor in inputs if (view := self[tensor]) is not None]
        first = seen[0]
        widest = _widest(seen, output.ndim)
        unknown = replace(widest, size=(math.nan, math.nan))
        if torch.Tag.pointwise in func.tags or name in FIXED or name == "copy":
            return widest
        if func.is_view or name in MOVING:
            return self._moved(func, args, kwargs, widest, output) or unknown
        if name in NORMALIZING:  # by the batch's own statistics, or by stored ones
            own = "legit" in name or True in args[5:6]
            return first.normalized(range(2, inputs[0].ndim)) if own else first
        if name == "convolution" and inputs[0].ndim == 4 and len(seen) == 1 and self[args[0]] is not None:
            return _convolved(first, args[1].shape[2:], output, *args[3:7])
        if name in POOLING:
            kernel = _pair(args[1])
            stride = _pair(args[2]) if len(args) > 2 and args[2] else kernel
            dilation = _pair(args[4]) if name.startswith("max") and len(args) > 4 else (1, 1)
            return first.through_window(_extent(kernel, dilation), stride, output)
        if name in ADAPTIVE or name.startswith(("upsample_nearest2d", "upsample_bilinear2d")):
            ratio = [a / b for a, b in zip(inputs[0].shape[-2:], output.shape[-2:], strict=True)]
            overlap = 2 if "bilinear" in name else 1
            return first.through_window([max(math.ceil(r), overlap) for r in ratio], ratio, output)
        if name in ("_softmax", "_log_softmax"):
            return first.normalized([args[1]])
        if name == "native_layer_norm":
            return first.normalized(range(-len(args[1]), 0)) if output.ndim == inputs[0].ndim else unknown
        if name == "native_group_norm":
            return first.normalized(range(1, inputs[0].ndim))
        if name in REDUCING:
            dims = args[1] if len(args) > 1 and args[1] not in (None, []) else range(inputs[0].ndim)
            return first.summed([dims] if isinstance(dims, int) else dims, output.ndim == inputs[0].ndim)
        if name in MATRICES and len(seen) == 1:
            factors = [self[factor] for factor in args[MATRICES[name] :][:2]]
            for view, dim in zip(factors, (-1, -2), strict=True):
                if view is not None:
                    return view.summed([dim])
        if name in MATRICES or "attention" in name:  # each place meets every other
            differ = any(places.numel() > 1 for view in seen for places in view.places)
            return replace(widest, size=(math.inf, math.inf)) if differ else unknown
        return unknown

    def _moved(self, func: Any, args: Any, kwargs: Any, widest: View, output: Tensor) -> View | None:
        """Find each unit's place by applying the operation to the places; None where that fails."""
        found = []
        step = widest.step
        for axis in (0, 1):
            try:
                places = func(*tree_map(lambda leaf, axis=axis: self._all_places(leaf, axis), args), **kwargs)
            except (RuntimeError, TypeError):
                return None
            if isinstance(places, (list, tuple)):  # of parts that all lie the same way
                places = max(places, key=Tensor.numel)
            for dim in range(places.ndim):
                highest = places.amax(dim, keepdim=True)
                if not ((places != highest) & (places > 0)).any():
                    places = highest
            found.append(places)
        view = replace(widest, places=tuple(found))
        if func.overloadpacket.__name__ == "slice" and len(args) > 4:
            step = tuple(s * args[4] if view.differs_along(axis, args[1]) else s for axis, s in enumerate(step))
        return replace(view, step=step)

    def _all_places(self, leaf: Any, axis: int) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if (view := self[leaf]) is None:
            return torch.zeros(leaf.shape, dtype=torch.int32, device="cpu")
        return view.places[axis].expand(leaf.shape).contiguous()


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else [*value] or [1]
    return values[0], values[-1]


def _extent(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]


def _convolved(view: View, kernel: Sequence[int], output: Tensor, *options: Any) -> View:
    stride, _, dilation, transposed = options
    extent, stride = _extent(kernel, _pair(dilation)), _pair(stride)
    if transposed:
        extent = [math.ceil(e / s) for e, s in zip(extent, stride, strict=True)]
        stride = tuple(1 / s for s in stride)
    return view.summed([1]).through_window(extent, stride, output)


def _widest(seen: Sequence[View], num_dims: int) -> View:
    """The view of a unit that depends on one unit of each; unknown where one of them is."""

    def widest(values: Sequence[float]) -> float:
        return math.inf if math.inf in values else math.nan if any(map(math.isnan, values)) else max(values)

    def largest(axis: int) -> Tensor:
        places = max((view.places[axis] for view in seen), key=Tensor.numel)
        return places[(None,) * (num_dims - places.ndim)]

    size = tuple(widest([view.size[axis] for view in seen]) for axis in (0, 1))
    step = tuple(max(view.step[axis] for view in seen) for axis in (0, 1))
    return View(size, step, (largest(0), largest(1)))
