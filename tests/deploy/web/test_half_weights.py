"""Weights as half floats: half the file, the same graph."""

import numpy as np
import pytest

from zsad.deploy.web.half_weights import FEWEST_VALUES, with_half_weights

onnx = pytest.importorskip("onnx", reason='pip install "zsad[export]"')


def linear(weight, offset):
    """The graph of x @ weight + offset."""
    values = onnx.numpy_helper.from_array
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "weight"], ["product"]),
            onnx.helper.make_node("Add", ["product", "offset"], ["y"]),
        ],
        "linear",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", len(weight)])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", weight.shape[1]])],
        [values(weight, "weight"), values(offset, "offset")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


def run(model, x):
    runtime = pytest.importorskip("onnxruntime", reason='pip install "zsad[export]"')
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_only_the_large_weights_change_and_only_their_storage():
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((64, 64)).astype(np.float32)
    offset = generator.standard_normal(64).astype(np.float32)
    assert offset.size < FEWEST_VALUES <= weight.size
    model = linear(weight, offset)
    before = model.SerializeToString()
    halved = with_half_weights(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(halved, full_check=True)
    assert len(halved.SerializeToString()) < 0.55 * len(before)
    x = generator.standard_normal((5, 64)).astype(np.float32)
    expected = x @ weight.astype(np.float16).astype(np.float32) + offset
    np.testing.assert_allclose(run(halved, x), expected, rtol=1e-4, atol=1e-4)


def test_weights_that_half_floats_cannot_hold_keep_their_precision():
    weight = np.full((64, 64), 1e5, np.float32)
    halved = with_half_weights(linear(weight, np.zeros(64, np.float32)))
    assert np.isfinite(run(halved, np.ones((1, 64), np.float32))).all()
