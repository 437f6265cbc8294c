import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from convnets.book import (
    Conv2D,
    convolve2d,
    corr2d,
    corr2d_multi_in,
    corr2d_multi_in_out,
    corr2d_multi_in_out_1x1,
    learn_kernel,
    pool2d,
)

# Sums of products of small whole numbers are exact in float32: results must be equal, not close.
sizes = st.integers(1, 7)
quick = settings(max_examples=30, deadline=None)


def whole_numbers(*shape, seed=0):
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed)).float()


@st.composite
def image_and_kernel(draw):
    height, width = draw(sizes), draw(sizes)
    h, w = draw(st.integers(1, height)), draw(st.integers(1, width))
    seed = draw(st.integers(0, 999))
    return (height, width), (h, w), seed


@quick
@given(image_and_kernel())
def test_corr2d_is_conv2d(case):
    size, kernel_size, seed = case
    image, kernel = whole_numbers(*size, seed=seed), whole_numbers(*kernel_size, seed=seed + 1)
    assert torch.equal(corr2d(image, kernel), F.conv2d(image[None, None], kernel[None, None])[0, 0])


@quick
@given(image_and_kernel(), st.integers(1, 3), st.integers(1, 3))
def test_many_channels_are_conv2d(case, in_channels, out_channels):
    size, kernel_size, seed = case
    image = whole_numbers(in_channels, *size, seed=seed)
    kernels = whole_numbers(out_channels, in_channels, *kernel_size, seed=seed + 1)
    expected = F.conv2d(image[None], kernels)[0]
    assert torch.equal(corr2d_multi_in_out(image, kernels), expected)
    assert torch.equal(corr2d_multi_in(image, kernels[0]), expected[0])


@quick
@given(sizes, sizes, st.integers(1, 4), st.integers(1, 4))
def test_1x1_convolution_is_conv2d(height, width, in_channels, out_channels):
    image, kernels = whole_numbers(in_channels, height, width), whole_numbers(out_channels, in_channels, 1, 1, seed=1)
    assert torch.equal(corr2d_multi_in_out_1x1(image, kernels), F.conv2d(image[None], kernels)[0])
    assert torch.equal(corr2d_multi_in_out_1x1(image, kernels), corr2d_multi_in_out(image, kernels))


@quick
@given(image_and_kernel(), st.tuples(st.integers(1, 3), st.integers(1, 3)), st.booleans())
def test_pool2d_is_max_pool2d_and_avg_pool2d(case, stride, pad):
    size, window, seed = case
    padding = (window[0] // 2, window[1] // 2) if pad else (0, 0)
    image = whole_numbers(*size, seed=seed)
    batch = image[None, None]
    assert torch.equal(
        pool2d(image, window, "max", stride, padding), F.max_pool2d(batch, window, stride, padding)[0, 0]
    )
    torch.testing.assert_close(
        pool2d(image, window, "avg", stride, padding), F.avg_pool2d(batch, window, stride, padding)[0, 0]
    )


@quick
@given(sizes, sizes, sizes, sizes, st.integers(0, 999))
def test_strict_convolution_is_symmetric_and_scipys(height, width, h, w, seed):
    f, g = whole_numbers(height, width, seed=seed), whole_numbers(h, w, seed=seed + 1)
    assert torch.equal(convolve2d(f, g), convolve2d(g, f))
    assert torch.equal(convolve2d(f, g), F.conv_transpose2d(f[None, None], g[None, None])[0, 0])


@quick
@given(st.integers(0, 2), st.integers(0, 2), st.integers(0, 999))
def test_cross_correlation_is_equivariant_to_shifts(down, right, seed):
    image, kernel = whole_numbers(8, 9, seed=seed), whole_numbers(3, 2, seed=seed + 1)
    shifted = corr2d(image.roll((down, right), dims=(0, 1)), kernel)
    original = corr2d(image, kernel)
    assert torch.equal(shifted[down:, right:], original[: 6 - down, : 8 - right])


@quick
@given(st.integers(0, 999))
def test_average_pooling_is_additive_and_max_pooling_is_not(seed):
    a, b = whole_numbers(5, 5, seed=seed), whole_numbers(5, 5, seed=seed + 1)
    torch.testing.assert_close(pool2d(a, (2, 2), "avg") + pool2d(b, (2, 2), "avg"), pool2d(a + b, (2, 2), "avg"))
    peak, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert pool2d(peak, (1, 2)) + pool2d(other, (1, 2)) == 2
    assert pool2d(peak + other, (1, 2)) == 1


def test_the_layer_learns():
    torch.manual_seed(0)
    layer = Conv2D((1, 2))
    assert 0 <= layer.weight.min() <= layer.weight.max() < 1
    assert layer.bias.item() == 0
    image = whole_numbers(4, 5)
    layer(image).sum().backward()
    assert torch.equal(layer.weight.grad, torch.stack([image[:, :4].sum(), image[:, 1:].sum()])[None])
    assert layer.bias.grad.item() == 16


def test_a_kernel_is_learned_from_a_random_start_too():
    torch.manual_seed(3)
    image = whole_numbers(6, 8).sign()
    target = corr2d(image, torch.tensor([[1.0, -1.0]]))
    kernel, losses = learn_kernel(image, target, start=None, num_steps=200, lr=0.005)
    torch.testing.assert_close(kernel, torch.tensor([[1.0, -1.0]]), atol=1e-3, rtol=0)
    assert losses[-1] < 1e-3 < losses[0]


ONE = torch.ones(3, 3)
BAD_SHAPES = [
    (lambda: corr2d(ONE[None], ONE), r"The image must have 2 dimensions \(height, width\), got 1x3x3"),
    (lambda: corr2d(ONE, ONE[0]), r"The kernel must have 2 dimensions \(height, width\), got 3"),
    (lambda: corr2d(ONE, torch.ones(4, 1)), r"The kernel \(4x1\) must hold something and fit into the image \(3x3\)"),
    (lambda: corr2d(ONE, torch.ones(0, 2)), r"must hold something"),
    (lambda: convolve2d(torch.tensor(1.0), ONE), r"got a single number"),
    (lambda: corr2d_multi_in(torch.ones(2, 3, 3), torch.ones(3, 2, 2)), "2 channels and the kernel 3"),
    (lambda: corr2d_multi_in_out(ONE[None], ONE[None]), "The kernel bank must have 4 dimensions"),
    (
        lambda: corr2d_multi_in_out_1x1(ONE[None], torch.ones(2, 1, 2, 2)),
        "must be 1x1x1 each for this image, got a bank of 2x1x2x2",
    ),
    (lambda: pool2d(ONE, (4, 1)), r"A 4x1 window with stride \(1, 1\) does not fit the padded image \(3x3\)"),
    (lambda: pool2d(ONE, (2, 2), stride=(0, 1)), "does not fit"),
    (lambda: pool2d(ONE, (2, 2), "min"), "The mode must be max or avg, got 'min'"),
    (lambda: pool2d(ONE, (2, 2), padding=(2, 0)), r"from 0 to half of the 2x2 window, got \(2, 0\)"),
    (lambda: pool2d(ONE, (2, 2), padding=(0, -1)), r"from 0 to half of the 2x2 window, got \(0, -1\)"),
    (lambda: corr2d_multi_in(torch.ones(0, 3, 3), torch.ones(0, 2, 2)), "0 channels and the kernel 0: .* at least one"),
    (lambda: learn_kernel(ONE[0], ONE), r"The image must have 2 dimensions \(height, width\), got 3"),
    (lambda: learn_kernel(ONE, ONE), "The target must be 3x2 for this image and kernel, got 3x3"),
]


@pytest.mark.parametrize(("call", "said"), BAD_SHAPES)
def test_wrong_shapes_are_refused_in_words(call, said):
    with pytest.raises(ValueError, match=said):
        call()
