"""The head of a network: what turns features into scores. The rest is its backbone."""

from torch import nn


def head_of(network: nn.Module) -> nn.ModuleList:
    """The layers of the head.

    These are what `network.get_classifier()` returns, as networks of timm have it; else the last linear layer; in a
    network without one, such as NiN, the last of its children that has weights.

    Raises:
        ValueError: there are no weights beside those of the head.
    """
    if callable(get_classifier := getattr(network, "get_classifier", None)):
        found = get_classifier()
        head = nn.ModuleList(found if isinstance(found, tuple) else [found])
    else:
        linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        with_weights = [child for child in network.children() if next(child.parameters(), None) is not None]
        head = nn.ModuleList((linear or with_weights)[-1:])
    if {*head.parameters()} in (set(), {*network.parameters()}):
        raise ValueError(
            f"{type(network).__name__} cannot be divided into backbone and head: leave model.freeze and "
            "model.backbone_lr out."
        )
    return head
